//! Adapters in peft's files: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use regex::Regex;
use serde_json::{Map, Value};
use vlm_nn::adapter::{self, LowRank, Part, Scale, Scaling, Side};
use vlm_nn::params;
use vlm_store::{Float, StagedDir, TensorFiles, TensorSpec, write_file, write_tensors};

use crate::attach::hung;
use crate::config_file::{beside_of, described, method_of};
use crate::front;
use crate::site::{Names, found};
use crate::whole::{Whole, filled};
use crate::{Adapter, AnyMethod, Beside, Error, Method, Site, Targets, eas, memvp};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// What an adapter's file says of the model that it is for.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Where the model is.
    pub model: Option<String>,
    /// What peft wraps it in, such as `CAUSAL_LM`. Rows in front need it: peft puts them there in some
    /// of its wrappers only.
    pub task: Option<String>,
    /// Of the part that reads text, for rows in front.
    pub text: Option<Shape>,
}

/// The shape of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
}

/// The tensor of adapters that are rows in front.
const ROWS: &str = "prompt_embeddings";

/// Writes an adapter of a model, as peft reads it. An earlier adapter in the folder stays until the new
/// one is complete.
///
/// # Errors
/// What the operating system reports.
pub fn save<M: Module>(
    model: &M,
    adapter: &Adapter,
    base: &Base,
    dir: &Path,
    float: Float,
) -> Result<(), Error> {
    let all = adapter::all(model);
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
    let part = |site: &Site| {
        let mut named = all.get(&site.path)?.parts.iter();
        named.find(|named| named.name == adapter.name).map(|named| &named.part)
    };
    for site in &adapter.sites {
        let parts = part(site).map(stored).into_iter().flatten();
        tensors.extend(parts.map(|(end, data)| (key(site, &end), data)));
    }
    tensors.extend(front::joined(&adapter.sites, part).map(|rows| (ROWS.to_owned(), rows)));
    let whole = |path: &str| adapter.whole.iter().find(|whole| whole.path == path);
    params::read_chosen(model, &|path| whole(path).is_some(), &mut |path, data| {
        tensors.extend(whole(path).map(|whole| (inside(&whole.name), whole.other_way(data))));
    });
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, data)| TensorSpec { name: name.clone(), shape: data.shape().to_vec() })
        .collect();
    let mut text = serde_json::to_string_pretty(&described(adapter, base)).unwrap_or_default();
    text.push('\n');
    let staged = StagedDir::new(dir)?;
    write_file(&staged.path().join(CONFIG), &mut |w| w.write_all(text.as_bytes()))?;
    let mut values = |name: &str| tensors[name].clone();
    write_tensors(&staged.path().join(TENSORS), float, &[], &specs, &mut values)?;
    Ok(staged.commit()?)
}

/// The tensors of a part as peft stores them, by the ends of their names.
fn stored(part: &Part) -> Vec<(String, TensorData)> {
    let turned = |param: &Param<Tensor<2>>| param.val().transpose().into_data();
    let all = match part {
        Part::LowRank(part) => {
            let mut all =
                vec![("lora_A.weight", turned(&part.a)), ("lora_B.weight", turned(&part.b))];
            if let Some(magnitude) = &part.magnitude {
                all.push(("lora_magnitude_vector", magnitude.val().into_data()));
            }
            all
        }
        Part::Scale(part) => {
            let factors = part.factors.val().unsqueeze::<2>();
            let factors = match part.side {
                Side::Input => factors,
                Side::Output => factors.transpose(),
            };
            vec![("ia3_l", factors.into_data())]
        }
        Part::Bottleneck(part) => vec![
            ("adapter_down.weight", turned(&part.down)),
            ("adapter_up.weight", turned(&part.up)),
        ],
        // All of them are one tensor.
        Part::Rows(_) => Vec::new(),
        Part::Bypass(part) => return eas::files::stored(part),
        Part::Memory(part) => return memvp::stored(part),
    };
    all.into_iter().map(|(end, data)| (end.to_owned(), data)).collect()
}

/// Hangs an adapter that peft or [`save`] wrote on a model, under a name.
///
/// # Errors
/// If a file is missing or damaged, the method is not known here, or the adapter is for another model;
/// all differences are listed.
pub fn load<M: Module>(
    model: M,
    name: &str,
    dir: &Path,
    names: &Names<'_>,
    device: &Device,
) -> Result<(M, Adapter), Error> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::Io { path: path.clone(), source })?;
    let wrong = |reason: String| Error::Config { path: path.clone(), reason };
    let fields: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let method = method_of(&fields).map_err(&wrong)?;
    let beside = beside_of(&fields).map_err(&wrong)?;
    let checked = method.get().check().and_then(|()| beside.check(&method));
    checked.map_err(|e| wrong(e.to_string()))?;
    let all = found(&model, method.get().hook(), names);
    let file = dir.join(TENSORS);
    let tensors = TensorFiles::open_file(&file)?;
    if matches!(method, AnyMethod::Prefix(_) | AnyMethod::Prompt(_)) {
        let targets = method.get().targets(&all);
        let chosen = targets.choose(&all)?;
        method.get().fits(&chosen, &all)?;
        let misfit = |reason: String| Error::Misfit {
            path: file.clone(),
            differences: vec![format!("`{ROWS}` {reason}")],
        };
        if tensors.shape(ROWS).is_none() {
            return Err(misfit("is missing".to_owned()));
        }
        let parts = front::split(&chosen, tensors.read(ROWS)?, device).map_err(misfit)?;
        let (name, sites) = (name.to_owned(), chosen);
        let (beside, whole) = (Beside::default(), Vec::new());
        let adapter = Adapter { name, method, targets, sites, beside, whole };
        return Ok((hung(model, &adapter, parts)?, adapter));
    }
    if let AnyMethod::Eas(eas) = &method {
        let targets = match targets_of(&fields).map_err(&wrong)? {
            Some(targets) => targets,
            None => method.get().targets(&all),
        };
        let chosen = eas::beside(&targets.choose(&all)?, &all);
        let want = fields.get("num_layers").and_then(Value::as_u64);
        if want.is_some_and(|want| want != chosen.len() as u64) {
            let (want, found) = (want.unwrap_or_default(), chosen.len());
            return Err(wrong(format!(
                "is for a model of {want} attentions; this one has {found}"
            )));
        }
        eas.fits(&chosen, &all)?;
    }
    let targets = targets_of(&fields).map_err(&wrong)?.unwrap_or_else(Targets::all);
    let alphas = Alphas::of(&fields).map_err(&wrong)?;
    let reader = Reader { tensors: &tensors, alphas, method: &method, device };
    let (mut parts, mut chosen) = (Vec::new(), Vec::new());
    let mut looked = Looked::default();
    for site in all {
        let Some(part) = reader.part(&site, &mut looked)? else { continue };
        parts.push((site.path.clone(), part));
        chosen.push(site);
    }
    let whole = beside.chosen(&model, &chosen, names)?;
    whole.iter().for_each(|whole| looked.whole(whole, &tensors));
    let Looked { seen, mut differences } = looked;
    if differences.is_empty() {
        // With `bias`, peft writes what it saves a second time under these names.
        let twice =
            |name: &str| name.contains(".modules_to_save.") || name.contains(".original_module.");
        let surplus = tensors.names().filter(|name| !seen.contains(*name) && !twice(name));
        differences.extend(surplus.map(|name| format!("the model has no place for `{name}`")));
    }
    if parts.is_empty() && differences.is_empty() {
        differences.push("it has no tensors".to_owned());
    }
    if !differences.is_empty() {
        return Err(Error::Misfit { path: file, differences });
    }
    let model =
        filled(model, &whole, |whole| Ok(whole.other_way(tensors.read(&inside(&whole.name))?)))?;
    let (name, method, sites) = (name.to_owned(), method.clone(), chosen);
    let adapter = Adapter { name, method, targets, sites, beside, whole };
    Ok((hung(model, &adapter, parts)?, adapter))
}

/// The targets that an adapter's fields name.
fn targets_of(fields: &Map<String, Value>) -> Result<Option<Targets>, String> {
    let named = fields.get("target_modules").filter(|value| !value.is_null());
    let read = |value: &Value| serde_json::from_value(value.clone());
    named.map(read).transpose().map_err(|e| format!("target_modules: {e}"))
}

/// The name of a map's tensor that ends so.
fn key(site: &Site, end: &str) -> String {
    inside(&format!("{}.{end}", site.module))
}

/// What peft calls a tensor of the model that it wraps.
fn inside(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Which tensors a model has a place for, and what does not fit it.
#[derive(Default)]
struct Looked {
    seen: BTreeSet<String>,
    differences: Vec<String>,
}

impl Looked {
    /// Looks for a tensor of the model itself.
    fn whole(&mut self, whole: &Whole, tensors: &TensorFiles) {
        let (name, want) = (inside(&whole.name), whole.file_shape());
        match tensors.shape(&name) {
            Some(found) if found == want => {}
            Some(found) => {
                self.differences.push(format!("`{name}` is {found:?}, the model has {want:?}"));
            }
            None => self.differences.push(format!("`{name}` is missing")),
        }
        self.seen.insert(name);
    }
}

/// α of maps that have one of their own.
struct Alphas(Vec<(Regex, f64)>);

impl Alphas {
    fn of(fields: &Map<String, Value>) -> Result<Self, String> {
        let Some(Value::Object(all)) = fields.get("alpha_pattern") else {
            return Ok(Alphas(Vec::new()));
        };
        let one = |(key, value): (&String, &Value)| {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
                .map_err(|e| format!("alpha_pattern `{key}`: {e}"))?;
            let alpha = value.as_f64().ok_or(format!("alpha_pattern `{key}` is {value}"))?;
            Ok((regex, alpha))
        };
        Ok(Alphas(all.iter().map(one).collect::<Result<_, String>>()?))
    }

    fn at(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, alpha)| *alpha)
    }
}

/// Reads parts.
struct Reader<'a> {
    tensors: &'a TensorFiles,
    alphas: Alphas,
    method: &'a AnyMethod,
    device: &'a Device,
}

impl Reader<'_> {
    /// The part of a map, if the file has one.
    fn part(&self, site: &Site, looked: &mut Looked) -> Result<Option<Part>, Error> {
        let name = |end: &str| key(site, end);
        let Looked { seen, differences } = looked;
        let mut shape = |end: &str, want: &dyn Fn(&[usize]) -> bool, says: String| {
            let name = name(end);
            seen.insert(name.clone());
            match self.tensors.shape(&name) {
                Some(found) if want(found) => true,
                Some(found) => {
                    differences.push(format!("`{name}` is {found:?}, the model has {says}"));
                    false
                }
                None => {
                    differences.push(format!("`{name}` is missing"));
                    false
                }
            }
        };
        let (input, output) = (site.input, site.output);
        let has = |end: &str| self.tensors.shape(&name(end)).is_some();
        let matrix = |end: &str| -> Result<Param<Tensor<2>>, Error> {
            let stored = Tensor::<2>::from_data(self.tensors.read(&name(end))?, self.device);
            // Lying as it did when it was written: sums of floats depend on it.
            let turned = stored.transpose().into_data();
            Ok(Param::from_tensor(Tensor::from_data(turned, self.device)))
        };
        let vector = |end: &str| -> Result<Param<Tensor<1>>, Error> {
            let values: Vec<f32> = self.tensors.read(&name(end))?.iter().collect();
            Ok(Param::from_tensor(Tensor::from_floats(&values[..], self.device)))
        };
        Ok(match self.method {
            AnyMethod::Ia3(_) if has("ia3_l") => {
                let fits = |found: &[usize]| found == [1, input] || found == [output, 1];
                if !shape("ia3_l", &fits, format!("[1, {input}] or [{output}, 1]")) {
                    return Ok(None);
                }
                let first = self.tensors.shape(&name("ia3_l")).map(|found| found[0]);
                let side = if first == Some(1) && output != 1 { Side::Input } else { Side::Output };
                Some(Part::Scale(Scale { factors: vector("ia3_l")?, side }))
            }
            AnyMethod::Bottleneck(_) | AnyMethod::Memvp(_) if has("adapter_down.weight") => {
                let Some(narrow) = self.method.narrow(site) else { return Ok(None) };
                let [width, out] = narrow.widths;
                let found = self.tensors.shape(&name("adapter_down.weight")).unwrap_or_default();
                let size = found.first().copied().unwrap_or_default();
                let down = shape(
                    "adapter_down.weight",
                    &|found| found == [size, width],
                    format!("[size, {width}]"),
                );
                let up = shape(
                    "adapter_up.weight",
                    &|found| found == [out, size],
                    format!("[{out}, {size}]"),
                );
                if !(down && up) {
                    return Ok(None);
                }
                Some(narrow.with(matrix("adapter_down.weight")?, matrix("adapter_up.weight")?))
            }
            AnyMethod::Memvp(memvp) if has("adapter_emb1") => {
                let mut all = true;
                for (end, want) in memvp.shapes(output)? {
                    all &= shape(end, &|found| found == want, format!("{want:?}"));
                }
                if !all {
                    return Ok(None);
                }
                let read =
                    |end: &str| -> Result<TensorData, Error> { Ok(self.tensors.read(&name(end))?) };
                Some(Part::Memory(memvp.made(self.device, &read)?))
            }
            AnyMethod::Eas(eas) => {
                let Some(layer) = eas.found.number(&site.path) else { return Ok(None) };
                let known = [false, true].map(|front| eas::files::KINDS[usize::from(front)]);
                if !known.iter().any(|kind| has(&format!("{kind}.local.weight"))) {
                    return Ok(None);
                }
                let kind = known[usize::from(!eas.layers.contains(&layer))];
                let wanted = eas::files::shapes(eas, kind, [input, site.context]);
                let mut all = true;
                for (end, want) in &wanted {
                    all &= shape(end, &|found| found == want, format!("{want:?}"));
                }
                if !all {
                    return Ok(None);
                }
                let read =
                    |end: &str| -> Result<TensorData, Error> { Ok(self.tensors.read(&name(end))?) };
                Some(Part::Bypass(eas::files::made(eas, kind, layer, self.device, &read)?))
            }
            AnyMethod::Lora(method) if has("lora_A.weight") || has("lora_B.weight") => {
                let found = self.tensors.shape(&name("lora_A.weight")).unwrap_or_default();
                let r = found.first().copied().unwrap_or_default();
                let a =
                    shape("lora_A.weight", &|found| found == [r, input], format!("[r, {input}]"));
                let b = shape(
                    "lora_B.weight",
                    &|found| found == [output, r],
                    format!("[{output}, {r}]"),
                );
                let length = !method.dora
                    || shape("lora_magnitude_vector", &|f| f == [output], format!("[{output}]"));
                if !(a && b && length) {
                    return Ok(None);
                }
                let magnitude = method.dora.then(|| vector("lora_magnitude_vector")).transpose()?;
                let alpha = self.alphas.at(&site.module).unwrap_or(method.alpha);
                let part = LowRank {
                    a: matrix("lora_A.weight")?,
                    b: matrix("lora_B.weight")?,
                    magnitude,
                    scaling: Scaling { alpha, rooted: method.rslora },
                    ranks: None,
                    dropout: method.dropout,
                };
                Some(Part::LowRank(part))
            }
            _ => None,
        })
    }
}
