//! What a folder says of a generative model, and what is needed to write the folder again.

use std::path::Path;

use burn::tensor::{Device, TensorData};
use serde_json::{Map, Value};
use vlm_encoders::checkpoint::{self, Layout, Named, Packing};
use vlm_encoders::four_bit::{quantization_config, take_config};
use vlm_encoders::{
    Error as EncoderError, FourBitConfig, Nested, TextSpec, VisionSpec, read_object, write_config,
};
use vlm_nn::params;
use vlm_store::{Float, TensorFiles};

use crate::families;
use crate::{Error, GenerativeModel, GenerativeSpec};

/// The shape of a generative model, the names of its tensors, and the configuration as it was
/// read, so that a folder which is written again has lost nothing.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shape.
    pub spec: GenerativeSpec,
    config: Map<String, Value>,
    vision: Nested<VisionSpec>,
    text: Nested<TextSpec>,
    /// Beginnings of the fusion's paths and what stands for them in the file.
    fusion: &'static [(&'static str, &'static str)],
    /// Tensors of heads that are not computed.
    carried: Vec<(String, TensorData)>,
}

impl Plan {
    /// Of a new model out of towers that have been opened from folders of their own.
    pub(crate) fn new(
        config: Map<String, Value>,
        spec: GenerativeSpec,
        (vision, text): (Nested<VisionSpec>, Nested<TextSpec>),
        fusion: &'static [(&'static str, &'static str)],
    ) -> Self {
        Plan { spec, config, vision, text, fusion, carried: Vec::new() }
    }

    /// Reads the configuration of a folder and the headers of its tensors.
    ///
    /// # Errors
    /// If the architecture or one of its options is not supported, or a file is missing or damaged.
    pub fn read(dir: &Path) -> Result<(Self, TensorFiles), Error> {
        if !dir.is_dir() {
            return Err(EncoderError::NoModel(dir.to_owned()).into());
        }
        let path = dir.join("config.json");
        let mut config = read_object(&path)?;
        let bad = |reason| EncoderError::Config { path: path.clone(), reason };
        take_config(&mut config).map_err(bad)?;
        let files = TensorFiles::open_dir(dir, "model").map_err(EncoderError::from)?;
        let (plan, files) = Self::of(config, &files).map_err(bad)?;
        let carries = |name: &&str| plan.vision.carries(name) || plan.text.carries(name);
        let carried = files
            .names()
            .filter(carries)
            .map(|name| Ok((name.to_owned(), files.read(name)?)))
            .collect::<Result<_, vlm_store::Error>>()
            .map_err(EncoderError::from)?;
        Ok((Plan { carried, ..plan }, files))
    }

    /// Understands a configuration; the files come back under the names of the hub.
    fn of(config: Map<String, Value>, files: &TensorFiles) -> Result<(Self, TensorFiles), String> {
        let families::Family { spec, vision, text, fusion, files } =
            families::parse(config.clone(), files)?;
        Ok((Plan { spec, config, vision, text, fusion, carried: Vec::new() }, files))
    }

    /// What the folder calls the model, such as `llava`.
    pub fn model_type(&self) -> &str {
        self.config.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The configuration as it was read.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The name and layout in the file of the parameter at `path` that has so many dimensions.
    pub fn named(&self, path: &str, rank: usize) -> Named {
        if path.starts_with("vision.") {
            return self.vision.named(path, rank);
        }
        let Some(rest) = path.strip_prefix("fusion.") else { return self.text.named(path, rank) };
        // Behind the name of the kind.
        let rest = rest.split_once('.').map_or(rest, |(_, rest)| rest);
        let found = self.fusion.iter().find(|(ours, _)| rest.starts_with(ours));
        let name = match found {
            Some((ours, theirs)) => format!("{theirs}{}", &rest[ours.len()..]),
            None => path.to_owned(),
        };
        let layout = if rank == 2 { Layout::Transposed } else { Layout::Same };
        Named { name, layout, part: None }
    }

    /// What transformers calls the parameter at `path` in memory, which is how adapters name it; `None`
    /// where it is of another shape there: one of several in a tensor, a convolution.
    pub fn in_memory(&self, path: &str, rank: usize) -> Option<String> {
        let named = self.named(path, rank);
        named.is_alike().then(|| families::in_memory(&named.name, self.model_type()))
    }

    /// The tensors of a model as its file holds them, with their shapes there.
    pub fn tensors(&self, model: &GenerativeModel) -> Vec<(String, Vec<usize>)> {
        let mut all: Vec<(String, Vec<usize>)> = Vec::new();
        for param in params::list(model) {
            let named = self.named(&param.path, param.shape.len());
            if all.iter().all(|(name, _)| *name != named.name) {
                all.push((named.name.clone(), named.file_shape(&param.shape)));
            }
        }
        all
    }

    /// Loads the model. With `packed`, the linear maps of the decoder's blocks keep four bits of each
    /// weight.
    ///
    /// # Errors
    /// If a tensor is missing, surplus or misshapen (all are listed), or the file fails.
    pub fn load(
        &self,
        files: &TensorFiles,
        packed: Option<FourBitConfig>,
        device: &Device,
    ) -> Result<GenerativeModel, Error> {
        let blank = GenerativeModel::new(&self.spec, device)?;
        let table = |path: &str, rank: usize| self.named(path, rank);
        let spare = |name: &str| {
            self.carried.iter().any(|(carried, _)| carried == name)
                || self.vision.spares(name)
                || self.text.spares(name)
        };
        checkpoint::check(&blank, files, &table, &spare)?;
        let at = |path: &str| path.starts_with("text.stack.");
        let packing = packed.map(|config| Packing { config, at: &at });
        Ok(checkpoint::fill(blank, files, &table, packing)?)
    }

    /// Writes configuration and tensors, so that the reference opens them.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, model: &GenerativeModel, dir: &Path, float: Float) -> Result<(), Error> {
        std::fs::create_dir_all(dir)
            .map_err(|source| EncoderError::Io { path: dir.to_owned(), source })?;
        let names = |path: &str, rank: usize| self.in_memory(path, rank);
        let four_bit = quantization_config(model, float, &names);
        write_config(&dir.join("config.json"), &self.config, float, four_bit)?;
        let table = |path: &str, rank: usize| self.named(path, rank);
        let file = dir.join("model.safetensors");
        Ok(checkpoint::save(model, &file, float, &table, &self.carried)?)
    }
}
