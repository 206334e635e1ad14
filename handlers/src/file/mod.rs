//! `file`: reads and writes files below the worker's file roots.

use std::io::Read;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat};
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{FileType, Stat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, Fields, kind};
use crate::confined::{Confined, FileError};
use crate::digest::hex;
use crate::schema::{Table, anything, flag, optional, required, required_text, text, whole, words};

/// Bytes of a file that is read or written.
const FILE_BYTES: u64 = 8 << 20;
/// The most that `maxBytes` may ask for.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Entries of a listing.
const ENTRIES_MAX: usize = 10_000;

const FIELDS: Table = &[&[
    required("operation", || words(&OPERATIONS), "read, write, append, list, delete, stat or hash."),
    required("path", required_text, "The file or directory; `.` is the first root."),
    optional("encoding", || words(&ENCODINGS), "Of the content: utf8, json, base64 or lines. Default utf8."),
    optional("content", anything, "What is written or appended. Default: the input."),
    optional("maxBytes", || whole(&SIZES), "Bytes of the file. Default 8388608, at most 67108864."),
    optional("recursive", flag, "List what is below; delete a directory with all in it. Default false."),
    optional("glob", text, "For list: `*`, `?`, `**`, `[…]` on the path below the listed directory."),
]];
const SIZES: RangeInclusive<u64> = 1..=FILE_BYTES_MAX;

/// Where the handler `file` may work. The default: nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePolicy {
    /// Absolute directories. Relative paths of flows start at the first.
    pub roots: Vec<PathBuf>,
}

/// The handler `file`.
#[derive(Debug)]
pub struct FileHandler {
    manifest: Manifest,
    policy: FilePolicy,
}

impl FileHandler {
    /// A handler that stays below the roots of `policy`.
    #[must_use]
    pub fn new(policy: FilePolicy) -> Self {
        Self { manifest: crate::manifest("file", "Reads and writes files", FIELDS), policy }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Append,
    List,
    Delete,
    Stat,
    Hash,
}

const OPERATIONS: [(&str, Operation); 7] = [
    ("read", Operation::Read),
    ("write", Operation::Write),
    ("append", Operation::Append),
    ("list", Operation::List),
    ("delete", Operation::Delete),
    ("stat", Operation::Stat),
    ("hash", Operation::Hash),
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Utf8,
    Json,
    Base64,
    Lines,
}

const ENCODINGS: [(&str, Encoding); 4] = [
    ("utf8", Encoding::Utf8),
    ("json", Encoding::Json),
    ("base64", Encoding::Base64),
    ("lines", Encoding::Lines),
];

impl Encoding {
    fn decode(self, content: Vec<u8>, path: &str) -> Result<Value, Failure> {
        if self == Self::Base64 {
            return Ok(BASE64.encode(content).into());
        }
        let text = String::from_utf8(content)
            .map_err(|_| failed(format!("`{path}` is not UTF-8; read it with the encoding base64")))?;
        match self {
            Self::Utf8 | Self::Base64 => Ok(text.into()),
            Self::Lines => Ok(text.lines().map(Value::from).collect()),
            Self::Json => {
                serde_json::from_str(&text).map_err(|error| failed(format!("`{path}` is not JSON: {error}")))
            }
        }
    }

    fn encode(self, content: &Value) -> Result<Vec<u8>, ConfigError> {
        let wrong = |expected: &str| {
            ConfigError::new(
                "content",
                format!("must be {expected} for this encoding, not {}", kind(content)),
            )
        };
        let text = || content.as_str().ok_or_else(|| wrong("a string"));
        match self {
            Self::Utf8 => Ok(text()?.as_bytes().to_vec()),
            Self::Json => Ok(content.to_string().into_bytes()),
            Self::Base64 => BASE64
                .decode(text()?)
                .map_err(|error| ConfigError::new("content", format!("is not base64: {error}"))),
            Self::Lines => {
                let lines = content.as_array().ok_or_else(|| wrong("an array of strings"))?;
                let mut bytes = Vec::new();
                for line in lines {
                    bytes.extend_from_slice(
                        line.as_str().ok_or_else(|| wrong("an array of strings"))?.as_bytes(),
                    );
                    bytes.push(b'\n');
                }
                Ok(bytes)
            }
        }
    }
}

/// What to do with which file.
struct Job {
    operation: Operation,
    path: String,
    file: Confined,
    encoding: Encoding,
    bytes_max: u64,
    recursive: bool,
    glob: Option<GlobMatcher>,
    content: Vec<u8>,
    temporary: String,
}

impl Job {
    fn new(policy: &FilePolicy, fields: &Fields<'_>, task: &Task) -> Result<Self, Failure> {
        let operation = fields.choice("operation", &OPERATIONS)?;
        let operation = operation.ok_or_else(|| fields.error("operation", "is required"))?;
        let path = fields.required_text("path")?;
        let encoding = fields.choice("encoding", &ENCODINGS)?.unwrap_or_default();
        let bytes_max = fields.number("maxBytes", &SIZES)?.unwrap_or(FILE_BYTES);
        let recursive = fields.flag("recursive", false)?;
        let glob = fields.text("glob")?.map(|pattern| {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher()).map_err(|error| fields.error("glob", error.to_string()))
        });
        let glob = glob.transpose()?;
        let content = match operation {
            Operation::Write | Operation::Append => {
                encoding.encode(fields.value("content").unwrap_or_else(|| task.input()))?
            }
            Operation::Read | Operation::List | Operation::Delete | Operation::Stat | Operation::Hash => {
                Vec::new()
            }
        };
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > bytes_max {
            return Err(FileError::TooLarge { path: path.into(), limit: bytes_max }.into());
        }
        let digest = hex(&Sha256::digest(task.idempotency_key()));
        Ok(Self {
            operation,
            path: path.into(),
            file: Confined::new(&policy.roots, path)?,
            encoding,
            bytes_max,
            recursive,
            glob,
            content,
            temporary: format!(".flowmonkey-{}-{}.tmp", &digest[..24], task.message.attempt),
        })
    }

    fn run(self) -> Result<Value, Failure> {
        let path = &self.path;
        Ok(match self.operation {
            Operation::Read => {
                let content = self.read()?;
                let size = content.len();
                json!({ "path": path, "size": size, "content": self.encoding.decode(content, path)? })
            }
            Operation::Write => {
                self.file.write(&self.content, &self.temporary)?;
                json!({ "path": path, "size": self.content.len() })
            }
            Operation::Append => {
                json!({ "path": path, "size": self.file.append(&self.content)?, "appended": self.content.len() })
            }
            Operation::List => {
                let keep = |entry: &str| self.glob.as_ref().is_none_or(|glob| glob.is_match(entry));
                let (entries, truncated) = self.file.list(self.recursive, ENTRIES_MAX, &keep)?;
                let entries: Vec<Value> =
                    entries.iter().map(|entry| describe(&entry.path, &entry.stat)).collect();
                json!({ "path": path, "entries": entries, "truncated": truncated })
            }
            Operation::Delete => json!({ "path": path, "deleted": self.file.delete(self.recursive)? }),
            Operation::Stat => describe(path, &self.file.stat()?),
            Operation::Hash => {
                let (sha256, size) = self.hash()?;
                json!({ "path": path, "size": size, "sha256": sha256 })
            }
        })
    }

    fn read(&self) -> Result<Vec<u8>, FileError> {
        let (file, _) = self.file.open()?;
        let mut content = Vec::new();
        file.take(self.bytes_max + 1).read_to_end(&mut content).map_err(|source| self.file.io(source))?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > self.bytes_max {
            return Err(FileError::TooLarge { path: self.path.clone(), limit: self.bytes_max });
        }
        Ok(content)
    }

    fn hash(&self) -> Result<(String, u64), FileError> {
        let (mut file, _) = self.file.open()?;
        let (mut digest, mut size, mut buffer) = (Sha256::new(), 0, vec![0_u8; 64 << 10]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok((hex(&digest.finalize()), size)),
                Ok(read) => {
                    digest.update(&buffer[..read]);
                    size += u64::try_from(read).unwrap_or(0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.file.io(source)),
            }
        }
    }
}

fn describe(path: &str, stat: &Stat) -> Value {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "other",
    };
    let modified = DateTime::from_timestamp(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    json!({
        "path": path,
        "type": kind,
        "size": stat.st_size,
        "modifiedAt": modified.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
    })
}

/// A failure of the content: the same again on every attempt.
fn failed(message: String) -> Failure {
    Failure::terminal("FILE_ERROR", message)
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let message = error.to_string();
        match error {
            FileError::Forbidden { .. } => Self::terminal("FILE_FORBIDDEN", message),
            // Somebody may be about to write it.
            FileError::NotFound(_) => Self::new("FILE_NOT_FOUND", message),
            FileError::TooLarge { limit, .. } => {
                Self::terminal("FILE_TOO_LARGE", message).details(json!({ "limit": limit }))
            }
            FileError::Io { .. } => Self::new("FILE_ERROR", message),
        }
    }
}

#[async_trait]
impl Handler for FileHandler {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let job = Job::new(&self.policy, &fields, task)?;
        fields.warn_unknown(task, FIELDS);
        // When the attempt ends early the work goes on to its end; a write is all or nothing.
        let done = tokio::task::spawn_blocking(|| job.run()).await;
        done.map_err(|error| Failure::new("FILE_ERROR", error.to_string()))?.map(Completion::output)
    }
}
