//! Signatures of tokens, checked with `ring`: RSA with PKCS#1 and SHA-256, ECDSA on P-256, and Ed25519. Nothing else is known
//! here, so that a token that asks for less cannot get it.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, new_error};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use signature::Verifier;

/// The algorithms that tokens may be signed with.
pub(super) const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: |algorithm, key| {
        RingVerifier::new(*algorithm, key).map(|verifier| Box::new(verifier) as _)
    },
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        rsa_pub_components_from_public_key: |_| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        ec_pub_components_from_private_key: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        ed_pub_components_from_private_key: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        compute_digest: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    },
};

/// Lets the token library use it. Repeatable.
pub(super) fn install() {
    // An error means that it is installed already.
    PROVIDER.install_default().ok();
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, Error> {
        let family = key.family();
        let fits = (algorithm == Algorithm::RS256 && family == AlgorithmFamily::Rsa)
            || (algorithm == Algorithm::ES256 && family == AlgorithmFamily::Ec)
            || (algorithm == Algorithm::EdDSA && family == AlgorithmFamily::Ed);
        if !fits {
            return Err(new_error(ErrorKind::InvalidAlgorithm));
        }
        Ok(Self { algorithm, key: key.clone() })
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            DecodingKeyKind::SecretOrDer(bytes) if self.algorithm == Algorithm::ES256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).verify(message, signature)
            }
            DecodingKeyKind::SecretOrDer(bytes) if self.algorithm == Algorithm::EdDSA => {
                UnparsedPublicKey::new(&ED25519, bytes).verify(message, signature)
            }
            DecodingKeyKind::SecretOrDer(_) => return Err(signature::Error::new()),
        };
        checked.map_err(|_unspecified| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
