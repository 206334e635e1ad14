//! A private S3.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::process::Farewell;
use crate::service::{Recipe, Service};
use crate::user::User;
use crate::wait::blocking;

/// Names the program, where it is not in the folder that `scripts/test.sh` makes.
const PROGRAM: &str = "FLOWMONKEY_MINISTACK";
/// The folder that `scripts/test.sh` makes.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ministack");
/// A server on the same machine answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A running `ministack`, which speaks S3. What is stored is lost when it ends. Clones are the same server; dropping the last
/// one ends it.
#[derive(Debug, Clone)]
pub struct S3 {
    service: Arc<Service>,
}

impl S3 {
    /// Starts one with a bucket of this name and waits until it answers. Panics when `ministack` is missing or does not start.
    pub async fn start(bucket: &'static str) -> Self {
        blocking(move || {
            let program = program();
            let service = Service::start("s3", None, User::of_servers(), |folder, port| {
                let (program, folder) = (program.clone(), folder.to_owned());
                Recipe {
                    name: "s3",
                    command: Box::new(move || {
                        let mut command = Command::new(&program);
                        command
                            .current_dir(&folder)
                            .env("HOME", &folder)
                            .env("BIND_HOST", "127.0.0.1")
                            .env("MINISTACK_HOST", "127.0.0.1")
                            .env("GATEWAY_PORT", port.to_string());
                        command
                    }),
                    is_ready: Box::new(move |_| answers(port, "GET", "")),
                    farewell: Farewell::Kill,
                }
            });
            assert!(answers(service.port(), "PUT", bucket), "the bucket {bucket} cannot be made");
            Self { service: Arc::new(service) }
        })
        .await
    }

    /// Settings as the environment of a program gives them.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.service.port());
        [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Connections stay open, nothing answers.
    pub fn pause(&self) {
        self.service.pause();
    }

    pub fn resume(&self) {
        self.service.resume();
    }

    /// SIGKILL. What was stored is lost.
    pub fn kill(&self) {
        self.service.kill();
    }
}

fn program() -> PathBuf {
    let program =
        std::env::var_os(PROGRAM).map_or_else(|| PathBuf::from(FOLDER).join("bin/ministack"), PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing, an S3 for tests. Run scripts/s3-server.sh, or name one by {PROGRAM}",
        program.display()
    );
    program
}

/// Whether a request is answered well.
fn answers(port: u16, method: &str, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let host = format!("Host: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n");
        let signed = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n";
        write!(connection, "{method} /{path} HTTP/1.1\r\n{host}{signed}\r\n")?;
        let mut head = [0; 12];
        connection.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
