//! The safetensors header, checked in full before anything is allocated.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::Error;

/// The format's own limit.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// More dimensions than PyTorch has.
const MAX_RANK: usize = 64;
/// Longer than any path of modules; longer or broken names would spoil the messages they are in.
const MAX_NAME: usize = 1000;

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

/// The header as it stands in the file.
struct Header(BTreeMap<String, Raw>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let fail = |e: A::Error| A::Error::custom(format!("tensor `{name}`: {e}"));
                    let raw: Raw = map.next_value().map_err(fail)?;
                    // Which of two was meant is anybody's guess; a map would keep the last.
                    if entries.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                    entries.insert(name, raw);
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
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
    let Header(raw) = serde_json::from_slice(&json)
        .map_err(|e| bad(format!("the header is not a list of tensors in JSON ({e})")))?;
    drop(json);
    let mut entries = BTreeMap::new();
    let mut spans = Vec::new();
    let room = size - 8 - len;
    for (name, raw) in raw {
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(bad(format!("no tensor can be called `{name}`")));
        }
        if raw.shape.len() > MAX_RANK {
            let rank = raw.shape.len();
            return Err(bad(format!("tensor `{name}` claims {rank} dimensions")));
        }
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
