//! GGUF, the format of llama.cpp (versions 2 and 3): metadata, then a table of tensors, then their
//! values in blocks of a quantisation.
//!
//! | part | what becomes of it |
//! |---|---|
//! | `general.architecture` | `model_type` and the tensors' names; llama, qwen2, qwen3, gemma, gemma2, gemma3 |
//! | `<architecture>.*` | `config.json`; a key that is not known is refused, since it may change the result |
//! | `tokenizer.*` | `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` |
//! | tensors | `model.safetensors`, decoded; one that has no place is refused |
//!
//! llama.cpp's converter permutes the query and key rows of `llama`, and adds 1 to the norms of the
//! Gemmas; both are undone.

mod config;
mod keys;
mod metadata;
mod patterns;
mod pieces;
mod quant;
mod rope;
mod table;
mod tensors;
mod tokenizer;

use std::io::{Read, Seek};

pub use quant::Kind;

use crate::error::{Fault, damaged, unsupported};
use crate::input::Input;
use crate::plan::{Format, Plan};
use keys::Keys;

/// How a file begins.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// Looks a GGUF file over.
pub(crate) fn plan<R: Read + Seek>(mut input: Input<R>) -> Result<Plan<R>, Fault> {
    input.skip(MAGIC.len() as u64)?;
    let version = u32::from_le_bytes(input.array()?);
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return unsupported("it is big-endian; fetch a little-endian GGUF file");
        }
        _ => {
            return unsupported(format!(
                "it is GGUF version {version}; versions 2 and 3 are read: convert it with a newer \
                 llama.cpp"
            ));
        }
    }
    let tensors = u64::from_le_bytes(input.array()?);
    let pairs = u64::from_le_bytes(input.array()?);
    let keys = Keys::new(metadata::read(&mut input, pairs)?);
    let alignment = keys.size("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return damaged(format!("general.alignment is {alignment}, no power of two"));
    }
    let mut stored = table::read(&mut input, tensors, alignment as u64)?;
    let (config, shape) = config::read(&keys, &stored, &mut input)?;
    stored.remove("rope_freqs.weight");
    let planned = tensors::place(&shape, stored)?;
    let mut files = vec![("config.json", config)];
    files.extend(tokenizer::files(keys, &shape)?);
    Ok(Plan {
        input,
        format: Format::Gguf,
        architecture: shape.family.class().into(),
        files,
        left_out: Vec::new(),
        tensors: planned,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use vlm_store::TensorFiles;

    use super::*;
    use crate::plan::{Change, Planned};

    /// Each type against gguf's own decoder (xtask/golden/gguf_files.py).
    #[test]
    fn blocks_are_decoded_to_the_bit() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_files");
        let bytes = std::fs::read(dir.join("blocks.gguf")).unwrap();
        let mut input = Input::new(Cursor::new(bytes)).unwrap();
        input.skip(8).unwrap();
        let [tensors, pairs] = [(); 2].map(|()| u64::from_le_bytes(input.array().unwrap()));
        metadata::read(&mut input, pairs).unwrap();
        let stored = table::read(&mut input, tensors, 32).unwrap();
        assert_eq!(stored.len(), 11);
        let plain = |(name, stored): (String, table::Stored)| {
            let change = Change::Nothing;
            (name, Planned { shape: stored.shape, from: vec![stored.stretch], change })
        };
        let mut plan = Plan {
            input,
            format: Format::Gguf,
            architecture: String::new(),
            files: Vec::new(),
            left_out: Vec::new(),
            tensors: stored.into_iter().map(plain).collect(),
        };
        let expected = TensorFiles::open_file(&dir.join("blocks.safetensors")).unwrap();
        for name in expected.names() {
            assert_eq!(plan.values(name).unwrap(), expected.read(name).unwrap(), "{name}");
        }
    }
}
