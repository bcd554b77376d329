//! What a file becomes, before any of it is written.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::Value;
use vlm_store::TensorSpec;

use crate::error::{Error, Fault, damaged, unsupported};
use crate::gguf::Kind;
use crate::input::Input;
use crate::{gguf, onnx};

/// Which program's file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// llama.cpp's.
    Gguf,
    /// That of exported graphs.
    Onnx,
}

impl Format {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gguf => "GGUF",
            Format::Onnx => "ONNX",
        }
    }
}

/// Where values lie in the file.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub start: u64,
    pub kind: Kind,
    pub count: usize,
}

/// How many times larger than the file its tensors may become. Four bits become 32 at most; but an
/// exporter keeps one of several tensors that are the same, and a file may say so of any.
const MAX_GROWTH: u64 = 16;

/// What is done to values on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Nothing,
    /// The file has `[columns, rows]`.
    Transposed,
    /// Rows of a head lie in pairs, as interleaved rotary positions want them; Hugging Face has
    /// first halves, then second ones.
    Paired {
        heads: usize,
    },
    /// One has been added to each value.
    OneMore,
}

/// A tensor of the folder.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub shape: Vec<usize>,
    /// One after another; zeros if there is none.
    pub from: Vec<Stretch>,
    pub change: Change,
}

impl Planned {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The folder that a file becomes.
#[derive(Debug)]
pub struct Plan<R> {
    pub(crate) input: Input<R>,
    /// The file's format.
    pub format: Format,
    /// The class in transformers.
    pub architecture: String,
    /// The folder's small files by name; all JSON.
    pub files: Vec<(&'static str, Value)>,
    /// Tensors that belong to something else and are left out.
    pub left_out: Vec<String>,
    pub(crate) tensors: BTreeMap<String, Planned>,
}

impl<R: Read + Seek> Plan<R> {
    /// Looks a file over. Its kind is known by its content; `path` only stands in messages.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is nothing that can be imported.
    pub fn read(source: R, path: &Path) -> Result<Self, Error> {
        let attempt = || {
            let mut input = Input::new(source)?;
            let mut magic = [0; 4];
            if input.len() >= 4 {
                input.fill(&mut magic)?;
            }
            input.go(0)?;
            match magic {
                gguf::MAGIC => gguf::plan(input),
                // A protobuf message whose first field is the version of the format, a small number.
                [0x08, 1..=64, ..] => onnx::plan(input),
                _ => unsupported(
                    "it is neither GGUF nor ONNX; other files are not imported (a folder with \
                     model.safetensors needs no import)",
                ),
            }
        };
        let sound = |plan: Plan<R>| {
            let bytes =
                plan.tensors.values().map(|planned| 4 * planned.count() as u64).sum::<u64>();
            if bytes > MAX_GROWTH * plan.input.len() {
                return damaged(format!("its tensors would become {bytes} bytes"));
            }
            Ok(plan)
        };
        attempt().and_then(sound).map_err(|fault: Fault| fault.at(path))
    }

    /// Names and shapes of the folder's tensors.
    pub fn specs(&self) -> Vec<TensorSpec> {
        let spec = |(name, planned): (&String, &Planned)| TensorSpec {
            name: name.clone(),
            shape: planned.shape.clone(),
        };
        self.tensors.iter().map(spec).collect()
    }

    /// Decodes one tensor of the folder.
    ///
    /// # Errors
    /// What the operating system reports, and `InvalidInput` if there is no such tensor.
    pub fn values(&mut self, name: &str) -> std::io::Result<TensorData> {
        let planned = self.tensors.get(name).cloned();
        let planned = planned.ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut values = match planned.change {
            Change::Transposed => vec![0.0; planned.count()],
            _ => Vec::with_capacity(planned.count()),
        };
        if planned.from.is_empty() {
            values.resize(planned.count(), 0.0);
        }
        let mut first = 0;
        for stretch in &planned.from {
            self.decode(stretch, &mut |piece| {
                if let (Change::Transposed, [rows, columns]) = (planned.change, &planned.shape[..])
                {
                    for (i, value) in (first..).zip(piece) {
                        values[i % rows * columns + i / rows] = *value;
                    }
                    first += piece.len();
                } else {
                    values.extend_from_slice(piece);
                }
            })
            .map_err(|fault| match fault {
                Fault::Io(error) => error,
                Fault::Damaged(reason) | Fault::Unsupported(reason) => {
                    std::io::Error::other(reason)
                }
            })?;
        }
        match planned.change {
            Change::Paired { heads } => unpair(&mut values, planned.shape[0], heads),
            Change::OneMore => values.iter_mut().for_each(|value| *value -= 1.0),
            Change::Nothing | Change::Transposed => {}
        }
        Ok(TensorData::new(values, planned.shape))
    }

    /// Hands over the values of a stretch in pieces.
    fn decode(&mut self, stretch: &Stretch, take: &mut dyn FnMut(&[f32])) -> Result<(), Fault> {
        let (values, bytes) = stretch.kind.block();
        let mut left = stretch.count / values;
        let most = ((1 << 18) / bytes).max(1);
        let mut raw = vec![0; left.min(most) * bytes];
        let mut decoded = Vec::with_capacity(left.min(most) * values);
        self.input.go(stretch.start)?;
        while left > 0 {
            let blocks = left.min(most);
            let raw = &mut raw[..blocks * bytes];
            self.input.fill(raw)?;
            decoded.clear();
            stretch.kind.decode(raw, &mut decoded);
            take(&decoded);
            left -= blocks;
        }
        Ok(())
    }
}

/// Takes rows `2 i + j` of each head to `j (rows / 2) + i`: what llama.cpp's converter does, undone.
fn unpair(values: &mut [f32], rows: usize, heads: usize) {
    let columns = values.len() / rows.max(1);
    let dim = rows / heads;
    let mut old = Vec::with_capacity(dim * columns);
    for head in values.chunks_exact_mut((dim * columns).max(1)) {
        old.clear();
        old.extend_from_slice(head);
        for i in 0..dim / 2 {
            for j in 0..2 {
                let (to, from) = ((j * (dim / 2) + i) * columns, (2 * i + j) * columns);
                head[to..to + columns].copy_from_slice(&old[from..from + columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves() {
        // Two heads of four rows of two values.
        let mut values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        unpair(&mut values, 8, 2);
        let head = [0., 1., 4., 5., 2., 3., 6., 7.];
        assert_eq!(values[..8], head);
        assert_eq!(values[8..], head.map(|x| x + 8.));
    }
}
