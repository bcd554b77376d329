//! The keys and values at the start of a file.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use crate::error::{Fault, damaged, quoted};
use crate::input::Input;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Numbers),
    /// Lists of lists, which no key that is read has.
    Nested,
}

/// A list of numbers as it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    kind: u32,
    bytes: Vec<u8>,
}

const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Lists within lists.
const MAX_DEPTH: usize = 4;
/// Longer than any key; messages would be spoilt.
const MAX_KEY: u64 = 1000;

/// Bytes of a number.
fn width(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// A number from its bytes, of which there are enough.
fn number(kind: u32, bytes: &[u8]) -> Option<Value> {
    let mut wide = [0; 8];
    let used = width(kind)?;
    wide[..used].copy_from_slice(bytes.get(..used)?);
    let raw = u64::from_le_bytes(wide);
    Some(match kind {
        0 | 2 | 4 | 10 => Value::Unsigned(raw),
        1 => Value::Signed(i64::from(raw as i8)),
        3 => Value::Signed(i64::from(raw as i16)),
        5 => Value::Signed(i64::from(raw as i32)),
        11 => Value::Signed(raw as i64),
        // The shortest decimal number that means it, as people write epsilons.
        6 => Value::Float(f32::from_bits(raw as u32).to_string().parse().ok()?),
        12 => Value::Float(f64::from_bits(raw)),
        _ => Value::Bool(raw != 0),
    })
}

impl Numbers {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / width(self.kind).unwrap_or(1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        let width = width(self.kind).unwrap_or(1);
        self.bytes.chunks_exact(width).filter_map(|bytes| number(self.kind, bytes))
    }
}

/// Reads so many pairs.
pub(super) fn read<R: Read + Seek>(
    input: &mut Input<R>,
    pairs: u64,
) -> Result<BTreeMap<String, Value>, Fault> {
    let mut map = BTreeMap::new();
    for _ in 0..pairs {
        let len = u64::from_le_bytes(input.array()?);
        if len > MAX_KEY {
            return damaged(format!("a key claims {len} bytes at byte {}", input.at()));
        }
        let key = input.text(len)?;
        let kind = u32::from_le_bytes(input.array()?);
        let value = value(input, kind, 0)?.ok_or_else(|| {
            Fault::Damaged(format!("{} has the unknown type {kind}", quoted(&key)))
        })?;
        if map.contains_key(&key) {
            return damaged(format!("the key {} is there twice", quoted(&key)));
        }
        map.insert(key, value);
    }
    Ok(map)
}

fn value<R: Read + Seek>(
    input: &mut Input<R>,
    kind: u32,
    depth: usize,
) -> Result<Option<Value>, Fault> {
    Ok(match kind {
        TEXT => {
            let len = u64::from_le_bytes(input.array()?);
            Some(Value::Text(input.text(len)?))
        }
        LIST => list(input, depth)?,
        _ => match width(kind) {
            Some(width) => number(kind, &input.bytes(width as u64)?),
            None => None,
        },
    })
}

fn list<R: Read + Seek>(input: &mut Input<R>, depth: usize) -> Result<Option<Value>, Fault> {
    if depth == MAX_DEPTH {
        return damaged(format!("lists are nested more than {MAX_DEPTH} deep"));
    }
    let kind = u32::from_le_bytes(input.array()?);
    let count = u64::from_le_bytes(input.array()?);
    Ok(match kind {
        TEXT => {
            // Each has its length before it, so that the list cannot be longer than the file.
            input.claim(count.saturating_mul(8))?;
            let mut texts = Vec::new();
            for _ in 0..count {
                let len = u64::from_le_bytes(input.array()?);
                texts.push(input.text(len)?);
            }
            Some(Value::Texts(texts))
        }
        LIST => {
            input.claim(count.saturating_mul(12))?;
            for _ in 0..count {
                if list(input, depth + 1)?.is_none() {
                    return Ok(None);
                }
            }
            Some(Value::Nested)
        }
        _ => match width(kind) {
            Some(width) => {
                let bytes = input.bytes(count.saturating_mul(width as u64))?;
                Some(Value::Numbers(Numbers { kind, bytes }))
            }
            None => None,
        },
    })
}
