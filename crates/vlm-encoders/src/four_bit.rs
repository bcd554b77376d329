//! Weights of four bits in files, as bitsandbytes lays them out.
//!
//! A weight `p` is bytes `[values / 2, 1]`. Beside it lie `p.absmax` (the largest of each block, or a byte
//! for each), `p.quant_map`, and a text in JSON as bytes, `p.quant_state.bitsandbytes__nf4`, which alone
//! knows the shape. With double quantisation there are `p.nested_absmax` and `p.nested_quant_map` too.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::four_bit::{Code, FourBit, FourBitConfig, Largest, NESTED_BLOCK};
use vlm_nn::{adapter, params};
use vlm_store::{Error, Float, TensorFiles};

use crate::checkpoint::Table;

/// What stands between a weight's name and the code in the name of its state.
const STATE: &str = ".quant_state.bitsandbytes__";
/// The ends of the names of what lies beside a weight.
const BESIDE: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
/// A state is a line of text.
const MOST: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
struct State {
    quant_type: Code,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_blocksize: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_offset: Option<f64>,
}

/// The weights of four bits of a file.
pub(crate) struct FourBitFiles<'a> {
    files: &'a TensorFiles,
    states: BTreeMap<String, State>,
}

impl<'a> FourBitFiles<'a> {
    /// Those that there are.
    pub(crate) fn of(files: &'a TensorFiles) -> Result<Self, Error> {
        let mut states = BTreeMap::new();
        for name in files.names() {
            let Some((weight, code)) = name.split_once(STATE) else { continue };
            let wrong =
                |reason: String| Error::damaged(files.path(), format!("`{name}`: {reason}"));
            if files.shape(name).is_none_or(|shape| shape.iter().product::<usize>() > MOST) {
                return Err(wrong("is no state of a weight".to_owned()));
            }
            let text = files.read_bytes(name)?;
            let state: State = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
            let (values, [_, _]) = (product(&state.shape), &state.shape[..]) else {
                return Err(wrong(format!("a linear map has no shape {:?}", state.shape)));
            };
            let fits = values.is_some_and(|values| {
                files.shape(weight).and_then(product) == Some(values.div_ceil(2))
            });
            let whole = (8..=4096).contains(&state.blocksize) && state.blocksize.is_multiple_of(8);
            if !fits || !whole || serde_json::to_value(state.quant_type).ok() != Some(code.into()) {
                return Err(wrong("it does not fit its weight".to_owned()));
            }
            states.insert(weight.to_owned(), state);
        }
        Ok(FourBitFiles { files, states })
    }

    /// All tensors.
    pub(crate) fn files(&self) -> &TensorFiles {
        self.files
    }

    /// Whether a weight is of four bits.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.states.contains_key(name)
    }

    /// The shape of a tensor, of four bits or not.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.states.get(name) {
            Some(state) => Some(&state.shape),
            None => self.files.shape(name),
        }
    }

    /// Whether a tensor lies beside a weight of four bits.
    pub(crate) fn is_beside(&self, name: &str) -> bool {
        let weight = name
            .split_once(STATE)
            .map(|(weight, _)| weight)
            .or_else(|| BESIDE.iter().find_map(|end| name.strip_suffix(end)));
        weight.is_some_and(|weight| self.has(weight))
    }

    /// A weight that [`has`](Self::has) four bits.
    pub(crate) fn read(&self, name: &str) -> Result<FourBit, Error> {
        let Some(state) = self.states.get(name) else {
            return Err(Error::Absent { path: self.files.path().to_owned(), name: name.into() });
        };
        let wrong = |what: &str| {
            Err(Error::damaged(self.files.path(), format!("`{name}`: {what} do not fit its state")))
        };
        let floats = |end: &str| -> Result<Vec<f32>, Error> {
            Ok(self.files.read(&format!("{name}.{end}"))?.iter().collect())
        };
        let len = product(&state.shape).unwrap_or(0);
        let blocks = len.div_ceil(state.blocksize);
        let table = floats("quant_map")?;
        let known = state.quant_type.values();
        if table.len() != 16 || table.iter().zip(known).any(|(a, b)| (a - b).abs() > 1e-6) {
            return wrong("the values of its code");
        }
        let largest = match state.nested_offset {
            None => Largest::Plain(floats("absmax")?),
            Some(offset) => Largest::Nested {
                codes: self.files.read_bytes(&format!("{name}.absmax"))?,
                scales: floats("nested_absmax")?,
                map: floats("nested_quant_map")?,
                offset: offset as f32,
            },
        };
        let fits = match &largest {
            Largest::Plain(values) => values.len() == blocks,
            Largest::Nested { codes, scales, map, .. } => {
                codes.len() == blocks
                    && scales.len() == blocks.div_ceil(NESTED_BLOCK)
                    && map.len() == 256
                    && state.nested_blocksize == Some(NESTED_BLOCK)
            }
        };
        if !fits {
            return wrong("the largest values of its blocks");
        }
        let packed = self.files.read_bytes(name)?;
        Ok(FourBit { code: state.quant_type, block: state.blocksize, len, packed, largest })
    }
}

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side))
}

/// What a model of these maps is called in `config.json`: bitsandbytes' `quantization_config`. `None` if
/// no map of the model has weights of four bits. `names` is what transformers calls a parameter in memory.
pub fn quantization_config<M: Module>(
    model: &M,
    float: Float,
    names: &dyn Fn(&str, usize) -> Option<String>,
) -> Option<Value> {
    let all = adapter::all(model);
    let packed = all.values().find_map(|adapters| adapters.packed.as_ref())?;
    let FourBitConfig { code, nested } = packed.config();
    let left = params::list(model).into_iter().filter(|param| {
        let is_map = param.shape.len() == 2 && param.path.ends_with(".weight");
        is_map && !adapter::is_inside(&param.path) && !all.contains_key(&param.path)
    });
    let mut left: Vec<String> = left
        .filter_map(|param| Some(names(&param.path, 2)?.strip_suffix(".weight")?.to_owned()))
        .collect();
    // A head that is the table of tokens has no weight here.
    left.push("lm_head".to_owned());
    left.sort();
    left.dedup();
    Some(json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_compute_dtype": dtype(float),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": code,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_skip_modules": left,
    }))
}

/// Takes what a configuration says of quantised weights off it: the tensors themselves say the rest.
///
/// # Errors
/// If it is not of four bits by bitsandbytes.
pub fn take_config(config: &mut Map<String, Value>) -> Result<(), String> {
    let Some(found) = config.remove("quantization_config") else { return Ok(()) };
    let method = found.get("quant_method").unwrap_or(&Value::Null);
    let four = found.get("load_in_4bit").or_else(|| found.get("_load_in_4bit"));
    if *method == json!("bitsandbytes") && four == Some(&Value::Bool(true)) {
        return Ok(());
    }
    Err(format!(
        "quantization_config: quant_method is {method}; only bitsandbytes with load_in_4bit is read: take a copy of the model that is not quantised"
    ))
}

/// PyTorch's name of a type.
fn dtype(float: Float) -> &'static str {
    match float {
        Float::F32 => "float32",
        Float::F16 => "float16",
        Float::Bf16 => "bfloat16",
    }
}

/// The tensors of all weights of four bits that lie alone in their tensor of the file, by their names.
pub(crate) fn of_module<M: Module>(
    module: &M,
    float: Float,
    table: &Table<'_>,
) -> BTreeMap<String, TensorData> {
    let mut all = BTreeMap::new();
    for (path, adapters) in adapter::all(module) {
        let (Some(packed), named) = (adapters.packed, table(&path, 2)) else { continue };
        if named.part.is_none() {
            let [input, output] = packed.dims();
            all.extend(stored(&named.name, &packed.to_host(), [output, input], dtype(float)));
        }
    }
    all
}

/// The tensors by which a weight `[out, in]` is stored, with their names. `dtype` is PyTorch's name of what
/// it is unpacked to.
fn stored(
    name: &str,
    weight: &FourBit,
    shape: [usize; 2],
    dtype: &str,
) -> Vec<(String, TensorData)> {
    let mut all = Vec::new();
    let mut add = |end: &str, data: TensorData| {
        all.push((format!("{name}{end}"), data));
    };
    let bytes = |values: &[u8]| TensorData::new(values.to_vec(), [values.len()]);
    let floats = |values: &[f32]| TensorData::new(values.to_vec(), [values.len()]);
    add("", TensorData::new(weight.packed.clone(), [weight.packed.len(), 1]));
    let mut state = State {
        quant_type: weight.code,
        blocksize: weight.block,
        dtype: dtype.to_owned(),
        shape: shape.to_vec(),
        nested_blocksize: None,
        nested_dtype: None,
        nested_offset: None,
    };
    // The second zero of FP4 has a sign in bitsandbytes' kernels only.
    add(".quant_map", floats(&weight.code.values().map(|x| if x == 0.0 { 0.0 } else { x })));
    match &weight.largest {
        Largest::Plain(values) => add(".absmax", floats(values)),
        Largest::Nested { codes, scales, map, offset } => {
            add(".absmax", bytes(codes));
            add(".nested_absmax", floats(scales));
            add(".nested_quant_map", floats(map));
            state.nested_blocksize = Some(NESTED_BLOCK);
            state.nested_dtype = Some("float32".to_owned());
            state.nested_offset = Some(f64::from(*offset));
        }
    }
    let code = serde_json::to_value(weight.code).unwrap_or_default();
    let code = code.as_str().unwrap_or_default();
    // As Python's json puts it.
    let text = serde_json::to_string(&state).unwrap_or_default();
    let text = text.replace("\":", "\": ").replace(",\"", ", \"");
    let text = text.replacen(
        &format!("[{},{}]", shape[0], shape[1]),
        &format!("[{}, {}]", shape[0], shape[1]),
        1,
    );
    add(&format!("{STATE}{code}"), bytes(text.as_bytes()));
    all
}
