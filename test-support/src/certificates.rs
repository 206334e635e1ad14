//! Certificates for TLS between tests and servers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::user::User;

/// Keys that others may read are refused by Postgres.
const OWNER_ONLY: u32 = 0o600;

/// An authority of its own, and a certificate for the servers and one for the clients, as PEM files in a folder that goes
/// with it. The server's is for `localhost` and `127.0.0.1`, the client's for the user `postgres`.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    #[expect(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("fm-certificates-").tempdir().expect("a folder can be made");
        let certificates = Self { folder };
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are valid names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "flowmonkey test authority");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = authority.self_signed(&key).expect("an authority signs itself");
        write(&certificates.authority(), &certificate.pem());
        let issuer = Issuer::new(authority, key);

        let server = (certificates.server_certificate(), certificates.server_key());
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        // Servers are clients of each other.
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        issue(&issuer, names, "localhost", &both, &server);
        let client = (certificates.client_certificate(), certificates.client_key());
        issue(&issuer, Vec::new(), "postgres", &both[1..], &client);
        certificates
    }

    /// The certificate to trust.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn server_certificate(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    pub fn server_key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    pub fn client_certificate(&self) -> PathBuf {
        self.folder.path().join("client.pem")
    }

    pub fn client_key(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    names: Vec<String>,
    common_name: &str,
    purposes: &[ExtendedKeyUsagePurpose],
    (certificate_file, key_file): &(PathBuf, PathBuf),
) {
    let mut params = CertificateParams::new(names).expect("the names are valid");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes.to_vec();
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.signed_by(&key, issuer).expect("the authority signs");
    write(certificate_file, &certificate.pem());
    write(key_file, &key.serialize_pem());
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(OWNER_ONLY)).expect("the file is ours");
}

/// Whether a server wants to see a certificate of its clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    #[default]
    Ignored,
    Demanded,
}

/// TLS of a server: then it takes no connections without.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificates: Arc<Certificates>,
    pub clients: ClientCertificates,
}

/// The server's own copies, which it may read whatever account it runs as.
pub(crate) struct ServerFiles {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl ServerFiles {
    pub(crate) fn copy(certificates: &Certificates, folder: &Path, user: User) -> Self {
        let copy = |from: &Path| {
            let to = folder.join(from.file_name().expect("it is a file"));
            // `copy` keeps the permissions.
            std::fs::copy(from, &to)
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
            user.own(&to);
            to
        };
        Self {
            authority: copy(&certificates.authority()),
            certificate: copy(&certificates.server_certificate()),
            key: copy(&certificates.server_key()),
        }
    }
}
