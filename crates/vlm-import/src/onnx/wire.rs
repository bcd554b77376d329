//! The encoding of protobuf: fields with a number and a value, in any order.

use std::io::{Read, Seek};

use crate::error::{Fault, damaged};
use crate::input::Input;

/// The value of a field.
pub(super) enum Value {
    Whole(u64),
    /// Four bytes, in this format always a float.
    Float(f32),
    /// Eight bytes, which nothing that is read has.
    Eight,
    /// So many bytes follow: text, a message, or numbers one after another. The reader stands at
    /// their first.
    Bytes(u64),
}

/// What is done with a field of a number; tells whether it consumed what it was handed as bytes.
pub(super) type Field<'a, R> = dyn FnMut(&mut Input<R>, u64, Value) -> Result<bool, Fault> + 'a;

/// Reads the fields of a message of `len` bytes; what `field` does not consume is stepped over.
pub(super) fn message<R: Read + Seek>(
    input: &mut Input<R>,
    len: u64,
    field: &mut Field<'_, R>,
) -> Result<(), Fault> {
    input.claim(len)?;
    let end = input.at() + len;
    while input.at() < end {
        let tag = varint(input)?;
        let value = match tag & 7 {
            0 => Value::Whole(varint(input)?),
            1 => {
                input.skip(8)?;
                Value::Eight
            }
            2 => Value::Bytes(varint(input)?),
            5 => Value::Float(f32::from_le_bytes(input.array()?)),
            kind => return damaged(format!("byte {} begins a field of type {kind}", input.at())),
        };
        let next = match value {
            Value::Bytes(len) => input.at().checked_add(len).filter(|next| *next <= end),
            _ => Some(input.at()).filter(|next| *next <= end),
        };
        let Some(next) = next else {
            return damaged(format!("a field at byte {} is longer than what it is in", input.at()));
        };
        if !field(input, tag >> 3, value)? {
            input.go(next)?;
        } else if input.at() != next {
            return damaged(format!("a field that ends at byte {next} is longer than it says"));
        }
    }
    Ok(())
}

pub(super) fn varint<R: Read + Seek>(input: &mut Input<R>) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = input.array()?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    damaged(format!("a number at byte {} has no end", input.at()))
}

/// Adds whole numbers, which are written one by one or all in one field.
pub(super) fn whole<R: Read + Seek>(
    input: &mut Input<R>,
    value: &Value,
    into: &mut Vec<i64>,
) -> Result<bool, Fault> {
    match value {
        Value::Whole(n) => {
            into.push(*n as i64);
            Ok(true)
        }
        Value::Bytes(len) => {
            input.claim(*len)?;
            let end = input.at() + len;
            while input.at() < end {
                into.push(varint(input)? as i64);
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}
