//! The form of a result on disk: a mark, a checksum of all that follows, a header, the result as on the wire.

use std::io::Read;

use flowmonkey_plumbing::token::TaskToken;
use flowmonkey_plumbing::wire::{WireError, decode_result, encode_result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::route::UnsentResult;

/// First bytes of each file; the digit is the version of the form.
const MARK: &[u8; 8] = b"FMSPILL1";
const CHECKSUM_BYTES: usize = 32;
const LENGTH_BYTES: usize = 4;
const FIXED_BYTES: usize = MARK.len() + CHECKSUM_BYTES + LENGTH_BYTES;
/// No header is longer.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Where a result goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) pool: String,
    pub(super) worker: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TaskToken>,
}

pub(super) fn encode(unsent: &UnsentResult) -> Result<Vec<u8>, WireError> {
    let header = Header {
        pool: unsent.pool.clone(),
        worker: unsent.worker.clone(),
        token: unsent.result.token.clone(),
    };
    let malformed = |reason: String| WireError::Malformed { reason };
    let header = serde_json::to_vec(&header).map_err(|error| malformed(error.to_string()))?;
    if header.len() > HEADER_BYTES_MAX {
        return Err(WireError::TooLarge { actual: header.len(), limit: HEADER_BYTES_MAX });
    }
    let length = u32::try_from(header.len()).map_err(|error| malformed(error.to_string()))?;
    let result = encode_result(&unsent.result)?;
    let mut checksum = Sha256::new();
    checksum.update(length.to_be_bytes());
    checksum.update(&header);
    checksum.update(&result);
    let mut bytes = Vec::with_capacity(FIXED_BYTES + header.len() + result.len());
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&checksum.finalize());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&result);
    Ok(bytes)
}

/// Reads no more than the header; the checksum is not looked at.
pub(super) fn read_header(file: &mut impl Read) -> Result<Header, String> {
    let mut fixed = [0_u8; FIXED_BYTES];
    file.read_exact(&mut fixed).map_err(|error| format!("its beginning cannot be read: {error}"))?;
    let length = header_length(&fixed)?;
    let mut header = vec![0; length];
    file.read_exact(&mut header).map_err(|error| format!("its header cannot be read: {error}"))?;
    serde_json::from_slice(&header).map_err(|error| format!("its header is malformed: {error}"))
}

pub(super) fn decode(bytes: &[u8]) -> Result<UnsentResult, String> {
    let (fixed, rest) = bytes.split_at_checked(FIXED_BYTES).ok_or("it is too short")?;
    let length = header_length(fixed)?;
    let checksum = &fixed[MARK.len()..MARK.len() + CHECKSUM_BYTES];
    if Sha256::digest(&bytes[MARK.len() + CHECKSUM_BYTES..]).as_slice() != checksum {
        return Err("its checksum is wrong".into());
    }
    let (header, result) = rest.split_at_checked(length).ok_or("its header is too short")?;
    let Header { pool, worker, token } =
        serde_json::from_slice(header).map_err(|error| format!("its header is malformed: {error}"))?;
    let mut result = decode_result(result).map_err(|error| error.to_string())?;
    result.token = token;
    Ok(UnsentResult { pool, worker, result })
}

fn header_length(fixed: &[u8]) -> Result<usize, String> {
    if !fixed.starts_with(MARK) {
        return Err("it is no spilled result".into());
    }
    let length = fixed.last_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_be_bytes(*bytes));
    let length =
        length.and_then(|length| usize::try_from(length).ok()).filter(|length| *length <= HEADER_BYTES_MAX);
    length.ok_or_else(|| "its header is too long".to_owned())
}
