//! The table of tensors.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::Kind;
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::input::Input;
use crate::plan::Stretch;

/// A tensor as the file has it, its shape in Hugging Face's order: rows first.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub shape: Vec<usize>,
    pub stretch: Stretch,
}

/// Longer names would spoil the messages they are in; llama.cpp allows 64 bytes.
const MAX_NAME: u64 = 256;
/// ggml's limit.
const MAX_RANK: u32 = 4;

/// Reads and checks the table; values begin at the next multiple of `alignment` behind it.
pub(super) fn read<R: Read + Seek>(
    input: &mut Input<R>,
    count: u64,
    alignment: u64,
) -> Result<BTreeMap<String, Stored>, Fault> {
    let mut table: BTreeMap<String, (Vec<usize>, u32, u64)> = BTreeMap::new();
    for _ in 0..count {
        let len = u64::from_le_bytes(input.array()?);
        if len > MAX_NAME {
            return damaged(format!("a tensor's name claims {len} bytes at byte {}", input.at()));
        }
        let name = input.text(len)?;
        let rank = u32::from_le_bytes(input.array()?);
        if rank > MAX_RANK {
            return damaged(format!("tensor {} claims {rank} dimensions", quoted(&name)));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            let size = u64::from_le_bytes(input.array()?);
            // Each value takes some of a byte at least.
            if size == 0 || size / 8 > input.len() {
                return damaged(format!("tensor {} has a side of {size}", quoted(&name)));
            }
            shape.insert(0, size as usize);
        }
        let kind = u32::from_le_bytes(input.array()?);
        let offset = u64::from_le_bytes(input.array()?);
        if table.insert(name.clone(), (shape, kind, offset)).is_some() {
            return damaged(format!("tensor {} is there twice", quoted(&name)));
        }
    }
    let base = input
        .at()
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| Fault::Damaged("general.alignment is too large".into()))?;
    let mut stored = BTreeMap::new();
    let mut spans = Vec::new();
    for (name, (shape, kind, offset)) in table {
        let shown = quoted(&name);
        let Some(kind) = Kind::of(kind) else {
            return unsupported(format!(
                "tensor {shown} has type {}, which is not read; read are {}",
                Kind::known(kind),
                Kind::list()
            ));
        };
        let (values, bytes) = kind.block();
        let row = shape.last().copied().unwrap_or(1);
        if row % values != 0 {
            return damaged(format!(
                "tensor {shown} has rows of {row} values, and {} has blocks of {values}",
                kind.name()
            ));
        }
        let total = shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side as u64));
        let span = total.and_then(|n| {
            let len = (n / values as u64).checked_mul(bytes as u64)?;
            let start = base.checked_add(offset)?;
            Some((start, start.checked_add(len)?))
        });
        match (span, total) {
            (Some((start, end)), Some(total)) if end <= input.len() && offset % alignment == 0 => {
                spans.push((start, end));
                let stretch = Stretch { start, kind, count: total as usize };
                stored.insert(name, Stored { shape, stretch });
            }
            _ => {
                return damaged(format!(
                    "tensor {shown} {} {shape:?} claims bytes from {offset} on of {}",
                    kind.name(),
                    input.len().saturating_sub(base)
                ));
            }
        }
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return damaged("tensors overlap");
    }
    Ok(stored)
}
