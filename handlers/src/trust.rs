//! Which certificates of servers are trusted, and how a refused one is told from other failures.

use std::error::Error;

use flowmonkey_worker::Failure;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Certificate authorities that `http-request` and `email` trust besides the public ones. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    authorities: Vec<CertificateDer<'static>>,
}

/// Why a text cannot be used as certificates of authorities.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is damaged, or something else.
    #[error("it is not PEM text with certificates: {0}")]
    Unreadable(String),
    /// There is no certificate in it.
    #[error("there is no certificate in it")]
    Empty,
    /// A certificate cannot be that of an authority.
    #[error("certificate {place} in it cannot be used: {reason}")]
    Unusable {
        /// Which one, from 1.
        place: usize,
        /// Why.
        reason: String,
    },
}

impl Trust {
    /// Adds the certificates of a PEM text. On an error none of them is added.
    ///
    /// # Errors
    /// When it cannot be read, has no certificate, or has one that cannot be used.
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<(), TrustError> {
        let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| TrustError::Unreadable(error.to_string()))?;
        if found.is_empty() {
            return Err(TrustError::Empty);
        }
        for (index, certificate) in found.iter().enumerate() {
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| TrustError::Unusable { place: index + 1, reason: error.to_string() })?;
        }
        self.authorities.extend(found);
        Ok(())
    }

    /// The certificates, DER.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &[u8]> {
        self.authorities.iter().map(AsRef::as_ref)
    }
}

/// The failure of a connection whose server has a certificate that is not trusted; none: it failed for another reason.
pub(crate) fn refused_certificate(error: &(dyn Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            let message = format!(
                "the server's certificate is not trusted: {reason}; an operator can name further authorities for this worker"
            );
            return Some(Failure::terminal("CERTIFICATE_REFUSED", message));
        }
        next = match error.downcast_ref::<std::io::Error>() {
            // What it carries is not among its sources.
            Some(error) => error.get_ref().map(|carried| carried as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken() {
        let mut trust = Trust::default();
        assert!(matches!(trust.add_pem(b"what"), Err(TrustError::Empty)));
        let damaged = b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
        assert!(matches!(trust.add_pem(damaged), Err(TrustError::Unreadable(_))));
        let odd = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(trust.add_pem(odd), Err(TrustError::Unusable { place: 1, .. })));
        assert_eq!(trust, Trust::default());
    }
}
