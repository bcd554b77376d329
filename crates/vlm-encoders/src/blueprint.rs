//! What a folder says of its model, and what is needed to write the folder again.

use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use serde_json::{Map, Value, json};
use vlm_nn::four_bit::FourBitConfig;
use vlm_nn::params;
use vlm_store::{Float, TensorFiles, write_file};

use crate::checkpoint::{self, Named, Packing};
use crate::clip::ClipConfig;
use crate::families::{self, DualSpec, Family, Names, Spec, clip_names, clip_spec};
use crate::four_bit::{quantization_config, take_config};
use crate::{Error, image::ImageProcessor};

/// The file of a transformers folder.
const CONFIG: &str = "config.json";
/// The file of an open_clip folder.
const OPEN_CLIP: &str = "open_clip_config.json";
/// A configuration is read whole; no real one has a hundredth of this.
const MAX_CONFIG: u64 = 10_000_000;

/// The shape of a model, the names of its tensors, and the configuration as it was read, so
/// that a folder which is written again has lost nothing.
#[derive(Clone, Debug)]
pub struct Blueprint<S> {
    /// The shape.
    pub spec: S,
    config: Map<String, Value>,
    file: &'static str,
    tensors: &'static str,
    names: Names,
    /// Tensors of heads that are not computed.
    carried: Vec<(String, TensorData)>,
    /// How the names of such tensors begin.
    heads: &'static [&'static str],
    surplus: &'static [&'static str],
}

impl Blueprint<DualSpec> {
    /// Of a new `CLIPModel`.
    ///
    /// # Errors
    /// What is wrong with the numbers.
    pub fn clip(config: &ClipConfig) -> Result<Self, String> {
        config.validate()?;
        let Value::Object(json) = config.to_json(Float::F32).map_err(|e| e.to_string())? else {
            return Err("a configuration is an object".into());
        };
        Ok(Blueprint {
            spec: clip_spec(config),
            config: json,
            file: CONFIG,
            tensors: "model",
            names: clip_names(&config.vision),
            carried: Vec::new(),
            heads: &[],
            surplus: &[],
        })
    }
}

/// A folder's configuration and tensor files, understood but not loaded.
pub struct Opened {
    pub plan: Blueprint<Spec>,
    pub files: TensorFiles,
    /// Where the configuration brings it: open_clip's.
    pub images: Option<ImageProcessor>,
}

/// Reads the configuration of a folder and the headers of its tensors.
pub fn read(dir: &Path) -> Result<Opened, Error> {
    if !dir.is_dir() {
        return Err(Error::NoModel(dir.to_owned()));
    }
    let open_clip = !dir.join(CONFIG).exists() && dir.join(OPEN_CLIP).exists();
    let file = if open_clip { OPEN_CLIP } else { CONFIG };
    let path = dir.join(file);
    let bad = |reason: String| Error::Config { path: path.clone(), reason };
    let mut config = read_object(&path)?;
    take_config(&mut config).map_err(bad)?;
    let tensors = if open_clip { "open_clip_model" } else { "model" };
    let files = TensorFiles::open_dir(dir, tensors)?;
    let (family, images) = if open_clip {
        let (family, images) = families::parse_open_clip(config.clone(), &files).map_err(bad)?;
        (family, Some(images))
    } else {
        (families::parse(config.clone(), &files).map_err(bad)?, None)
    };
    let Family { spec, names, carried: heads, surplus } = family;
    check_layers(&path, &spec, &names, &files)?;
    let carried = files
        .names()
        .filter(|name| heads.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| Ok((name.to_owned(), files.read(name)?)))
        .collect::<Result<_, Error>>()?;
    let plan = Blueprint { spec, config, file, tensors, names, carried, heads, surplus };
    Ok(Opened { plan, files, images })
}

/// Reads a file that holds one JSON object.
///
/// # Errors
/// [`Error::Io`]; [`Error::Config`] if it holds anything else or is far too large.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_CONFIG {
        return Err(bad(format!("{size} bytes is too large for a configuration")));
    }
    let text = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| bad(format!("not a JSON object ({e})")))
}

impl<S: Clone> Blueprint<S> {
    /// The shape itself.
    pub(crate) fn take_spec(&self) -> S {
        self.spec.clone()
    }
}

impl<S> Blueprint<S> {
    /// The same with another view of the shape.
    pub fn with<T>(self, spec: T) -> Blueprint<T> {
        let Blueprint { config, file, tensors, names, carried, heads, surplus, .. } = self;
        Blueprint { spec, config, file, tensors, names, carried, heads, surplus }
    }

    /// The configuration as it was read.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Names, and those of tensors that are no parameters: carried, and spared.
    pub(crate) fn tables(&self) -> (Names, &'static [&'static str], &'static [&'static str]) {
        (self.names.clone(), self.heads, self.surplus)
    }

    /// What the folder calls the model, such as `siglip`.
    pub fn model_type(&self) -> &str {
        match self.config.get("model_type") {
            Some(Value::String(kind)) => kind,
            _ => "open_clip",
        }
    }

    /// The name and layout in the file of the parameter at `path` that has so many dimensions.
    pub fn named(&self, path: &str, rank: usize) -> Named {
        self.names.named(path, rank)
    }

    /// What the reference calls the parameter at `path` in memory, which is how adapters name it; `None`
    /// where it is of another shape there: one of several in a tensor, a convolution.
    pub fn in_memory(&self, path: &str, rank: usize) -> Option<String> {
        let named = self.named(path, rank);
        named.is_alike().then_some(named.name)
    }

    /// Loads a blank module.
    ///
    /// # Errors
    /// If a tensor is missing, surplus or misshapen (all are listed), or the file fails.
    pub fn load<M: Module>(&self, module: M, files: &TensorFiles) -> Result<M, Error> {
        self.check(&module, files)?;
        self.fill(module, files)
    }

    /// The same; with `packed`, the linear maps of all blocks keep four bits of each weight.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_packed<M: Module>(
        &self,
        module: M,
        files: &TensorFiles,
        packed: Option<FourBitConfig>,
    ) -> Result<M, Error> {
        self.check(&module, files)?;
        let at = |path: &str| path.contains("stack.blocks.");
        let packing = packed.map(|config| Packing { config, at: &at });
        checkpoint::fill(module, files, &|path, rank| self.named(path, rank), packing)
    }

    /// Whether the files hold the tensors of a module and no others.
    ///
    /// # Errors
    /// If a tensor is missing, surplus or misshapen; all are listed.
    pub(crate) fn check<M: Module>(&self, module: &M, files: &TensorFiles) -> Result<(), Error> {
        let spare = |name: &str| {
            self.carried.iter().any(|(carried, _)| carried == name)
                || self.surplus.iter().any(|end| name.ends_with(end))
        };
        checkpoint::check(module, files, &|path, rank| self.named(path, rank), &spare)
    }

    /// Loads a part of a module whose whole was [checked](Self::check); its paths are those in the
    /// whole.
    ///
    /// # Errors
    /// If the file fails.
    pub(crate) fn fill<M: Module>(&self, part: M, files: &TensorFiles) -> Result<M, Error> {
        checkpoint::fill(part, files, &|path, rank| self.named(path, rank), None)
    }

    /// Writes configuration and tensors, so that the reference opens them.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save<M: Module>(&self, module: &M, dir: &Path, float: Float) -> Result<(), Error> {
        let table = |path: &str, rank: usize| self.named(path, rank);
        let names = |path: &str, rank: usize| Some(self.named(path, rank).name);
        self.save_config(dir, float, quantization_config(module, float, &names))?;
        let path = dir.join(format!("{}.safetensors", self.tensors));
        checkpoint::save(module, &path, float, &table, &self.carried)
    }

    /// The same in shards of at most `max_bytes`.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save_sharded<M: Module>(
        &self,
        module: &M,
        dir: &Path,
        float: Float,
        max_bytes: usize,
    ) -> Result<(), Error> {
        self.save_config(dir, float, None)?;
        let table = |path: &str, rank: usize| self.named(path, rank);
        checkpoint::save_sharded(module, dir, float, max_bytes, &table, &self.carried)
    }

    fn save_config(&self, dir: &Path, float: Float, four_bit: Option<Value>) -> Result<(), Error> {
        std::fs::create_dir_all(dir)
            .map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let path = dir.join(self.file);
        if self.file == CONFIG {
            return write_config(&path, &self.config, float, four_bit);
        }
        write_file(&path, &mut |w| {
            serde_json::to_writer_pretty(w, &self.config).map_err(std::io::Error::from)
        })?;
        Ok(())
    }

    /// Every parameter's name and shape in the file.
    pub fn tensors<M: Module>(&self, module: &M) -> Vec<(String, Vec<usize>)> {
        let mut all: Vec<(String, Vec<usize>)> = Vec::new();
        for param in params::list(module) {
            let named = self.named(&param.path, param.shape.len());
            if all.iter().all(|(name, _)| *name != named.name) {
                all.push((named.name.clone(), named.file_shape(&param.shape)));
            }
        }
        all
    }
}

/// Writes a `config.json` of a model whose weights have that type, but for those of four bits, if there
/// are any; see [`quantization_config`].
///
/// # Errors
/// What the operating system reports.
pub fn write_config(
    path: &Path,
    config: &Map<String, Value>,
    float: Float,
    four_bit: Option<Value>,
) -> Result<(), Error> {
    let mut config = config.clone();
    config.extend(four_bit.map(|four_bit| ("quantization_config".to_owned(), four_bit)));
    // Old readers know the one name, new ones both.
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    let name = match float {
        Float::F32 => "float32",
        Float::F16 => "float16",
        Float::Bf16 => "bfloat16",
    };
    config.insert(key.into(), json!(name));
    write_file(path, &mut |w| {
        serde_json::to_writer_pretty(w, &config).map_err(std::io::Error::from)
    })?;
    Ok(())
}

/// Compares a number of layers with the file's before a module of that many is built. A few too
/// many are let pass: their tensors are then listed as missing.
fn check_layers(
    config: &Path,
    spec: &Spec,
    names: &Names,
    files: &TensorFiles,
) -> Result<(), Error> {
    let (vision, text) = match spec {
        Spec::Vision(vision, _) => (Some(vision), None),
        Spec::Text(text, _) => (None, Some(text)),
        Spec::Dual(dual) => (Some(&dual.vision), Some(&dual.text)),
    };
    let wanted = [(0, vision.map(|v| v.layers)), (1, text.map(|t| t.blocks.len()))];
    for (tower, layers) in wanted {
        let Some(layers) = layers else { continue };
        let prefix = names.before_blocks(tower);
        let numbers = files.names().filter_map(|n| n.strip_prefix(&prefix)?.split('.').next());
        let found = numbers.collect::<std::collections::BTreeSet<_>>().len();
        if layers > found + 4 {
            let (prefix, file) = (prefix.trim_end_matches('.'), files.path().display());
            return Err(Error::Config {
                path: config.to_owned(),
                reason: format!("{layers} layers are wanted, but {file} has {found} in {prefix}"),
            });
        }
    }
    Ok(())
}
