//! The safetensors header, checked in full before anything is allocated.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// The format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Where a tensor lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub dtype: String,
    pub shape: Vec<usize>,
    /// From the start of the file, in bytes.
    pub start: u64,
    pub len: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Bits of a value of a type.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

pub(crate) fn read(
    path: &Path,
    file: &mut impl Read,
    size: u64,
) -> Result<BTreeMap<String, Entry>, Error> {
    let bad = |reason: String| Error::damaged(path, reason);
    if size < 8 {
        return Err(bad(format!("the file has only {size} bytes")));
    }
    let mut len = [0u8; 8];
    file.read_exact(&mut len).map_err(Error::io(path))?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(bad(format!(
            "the header claims {len} bytes, over the format's limit of {MAX_HEADER}"
        )));
    }
    if len > size - 8 {
        return Err(bad(format!("the header claims {len} bytes of a file of {size}")));
    }
    let mut json = vec![0u8; len as usize];
    file.read_exact(&mut json).map_err(Error::io(path))?;
    let raw: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|e| bad(format!("the header is not JSON ({e})")))?;
    let mut entries = BTreeMap::new();
    let mut spans = Vec::new();
    let room = size - 8 - len;
    for (name, value) in raw {
        if name == "__metadata__" {
            continue;
        }
        let raw: Raw = serde_json::from_value(value)
            .map_err(|e| bad(format!("the header's entry `{name}` is malformed ({e})")))?;
        let [start, end] = raw.data_offsets;
        let bits = bits(&raw.dtype)
            .ok_or_else(|| bad(format!("tensor `{name}` has the unknown type {}", raw.dtype)))?;
        let wanted =
            raw.shape.iter().try_fold(bits, |n, d| n.checked_mul(*d)).map(|bits| bits.div_ceil(8));
        if start > end || end > room || wanted != Some(end - start) {
            return Err(bad(format!(
                "tensor `{name}` {} {:?} claims bytes {start}..{end} of {room}",
                raw.dtype, raw.shape
            )));
        }
        spans.push((start, end));
        let entry = Entry {
            dtype: raw.dtype,
            shape: raw.shape.iter().map(|d| *d as usize).collect(),
            start: 8 + len + start,
            len: end - start,
        };
        entries.insert(name, entry);
    }
    spans.sort_unstable();
    let mut at = 0;
    for (start, end) in spans {
        if start != at {
            return Err(bad(format!("the tensors leave a gap or overlap at byte {at}")));
        }
        at = end;
    }
    if at != room {
        return Err(bad(format!("{} bytes belong to no tensor", room - at)));
    }
    Ok(entries)
}
