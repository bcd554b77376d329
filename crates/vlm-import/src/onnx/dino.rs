//! DINOv2 out of a graph.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{Read, Seek};

use serde_json::{Value, json};

use super::graph::{Graph, Node};
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::input::Input;
use crate::plan::{Change, Format, Plan, Planned, Stretch};

const PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
const POSITIONS: &str = "embeddings.position_embeddings";

fn other<T>(what: impl AsRef<str>) -> Result<T, Fault> {
    unsupported(format!("{}; of ONNX files only DINOv2 encoders are imported", what.as_ref()))
}

/// A graph whose parameters have been found.
struct Dino<'g> {
    graph: &'g Graph,
    /// What stands before the names.
    prefix: String,
    /// Shapes and places of what will be tensors of the folder.
    tensors: BTreeMap<String, Planned>,
    /// Names in the file that have been used.
    used: HashSet<String>,
    /// Nameless weights by the name that their bias gives them.
    weights: HashMap<String, &'g str>,
}

/// Looks for DINOv2 in a graph.
pub(super) fn plan<R: Read + Seek>(input: Input<R>, graph: &Graph) -> Result<Plan<R>, Fault> {
    let mut prefixes: Vec<&str> = graph.names().filter_map(|n| n.strip_suffix(PATCHES)).collect();
    prefixes.sort_unstable();
    let prefix = match prefixes.as_slice() {
        [one] => (*one).to_owned(),
        [] => return other(format!("no tensor is called `…{PATCHES}`")),
        _ => return other(format!("{} tensors are called `…{PATCHES}`", prefixes.len())),
    };
    let weights = nameless(graph, &prefix);
    let mut dino = Dino { graph, prefix, tensors: BTreeMap::new(), used: HashSet::new(), weights };
    let config = dino.read()?;
    let mut left_out: BTreeSet<&str> = graph.names().collect();
    left_out.retain(|name| !dino.used.contains(*name));
    // Constants of operations have no name of a module before them.
    left_out.retain(|name| !name.starts_with("onnx::") && !name.starts_with('/'));
    if let Some(name) = left_out.iter().find(|name| {
        name.starts_with(&dino.prefix) && !dino.prefix.is_empty() || name.contains("embeddings.")
    }) {
        return other(format!("tensor {} has no place in Dinov2Model", quoted(name)));
    }
    Ok(Plan {
        input,
        format: Format::Onnx,
        architecture: "Dinov2Model".into(),
        files: vec![("config.json", config), ("preprocessor_config.json", preparation())],
        left_out: left_out.into_iter().map(str::to_owned).collect(),
        tensors: dino.tensors,
    })
}

/// As facebook/dinov2-small prepares pictures, and the models made of it.
fn preparation() -> Value {
    json!({
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "shortest_edge": 256 },
        "resample": 3,
        "do_center_crop": true,
        "crop_size": { "height": 224, "width": 224 },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    })
}

/// Weights of products to which a named bias is added, under the name that goes with it.
fn nameless<'g>(graph: &'g Graph, prefix: &str) -> HashMap<String, &'g str> {
    let mut found = HashMap::new();
    for node in graph.nodes.iter().filter(|node| node.op == "MatMul") {
        let [_, weight] = node.inputs.as_slice() else { continue };
        let Some(product) = node.outputs.first().filter(|_| graph.tensor(weight).is_some()) else {
            continue;
        };
        // With two inputs each, so that the search is no longer than the graph.
        for sum in graph.users(product).filter(|user| user.op == "Add" && user.inputs.len() == 2) {
            for bias in sum.inputs.iter().filter(|input| *input != product) {
                let name = bias.strip_prefix(prefix).and_then(|n| n.strip_suffix(".bias"));
                if let (Some(name), Some(_)) = (name, graph.tensor(bias)) {
                    found.insert(format!("{name}.weight"), weight.as_str());
                }
            }
        }
    }
    found
}

impl<'g> Dino<'g> {
    fn read(&mut self) -> Result<Value, Fault> {
        let patches = self.named(PATCHES)?;
        let [width, channels, patch, across] = patches.shape[..] else {
            return other(format!("`{PATCHES}` is {:?}", patches.shape));
        };
        if patch != across {
            return other(format!("patches are {patch} by {across} pixels, not square"));
        }
        self.check_patches(patch)?;
        self.tensors.insert(PATCHES.into(), patches);
        self.vector("embeddings.patch_embeddings.projection.bias", &[width])?;
        self.vector("embeddings.cls_token", &[1, 1, width])?;
        let grid = self.positions(width)?;
        let mask = "embeddings.mask_token";
        if self.graph.tensor(&format!("{}{mask}", self.prefix)).is_some() {
            self.vector(mask, &[1, width])?;
        } else {
            // Only training has a use for it, so exports leave it out.
            let planned =
                Planned { shape: vec![1, width], from: Vec::new(), change: Change::Nothing };
            self.tensors.insert(mask.into(), planned);
        }
        for name in ["layernorm.weight", "layernorm.bias"] {
            self.vector(name, &[width])?;
        }
        let eps = self.epsilon("layernorm")?;
        let (mut layers, mut heads, mut inner) = (0, None, None);
        while layers == 0 || self.has_layer(layers) {
            let said = self.layer(layers, width)?;
            if *heads.get_or_insert(said.0) != said.0 || *inner.get_or_insert(said.1) != said.1 {
                return other(format!("layer {layers} differs from those before it"));
            }
            for norm in ["norm1", "norm2"] {
                if self.epsilon(&format!("encoder.layer.{layers}.{norm}"))? != eps {
                    return other(format!("{norm} of layer {layers} has another epsilon"));
                }
            }
            layers += 1;
        }
        let (heads, inner) = (heads.unwrap_or(1), inner.unwrap_or(width));
        Ok(json!({
            "architectures": ["Dinov2Model"],
            "model_type": "dinov2",
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "mlp_ratio": ratio(inner, width),
            "hidden_act": "gelu",
            "layer_norm_eps": eps,
            "image_size": grid * patch,
            "patch_size": patch,
            "num_channels": channels,
            "qkv_bias": true,
            "use_swiglu_ffn": false,
            "dtype": "float32",
        }))
    }

    fn has_layer(&self, layer: usize) -> bool {
        let name = format!("{}encoder.layer.{layer}.norm1.weight", self.prefix);
        self.graph.tensor(&name).is_some()
    }

    /// Takes a tensor that has its name.
    fn named(&mut self, name: &str) -> Result<Planned, Fault> {
        let full = format!("{}{name}", self.prefix);
        let Some(tensor) = self.graph.tensor(&full) else {
            return other(format!("tensor {} is missing", quoted(&full)));
        };
        let (shape, stretch) = tensor.stored()?;
        self.used.insert(full);
        Ok(Planned { shape, from: vec![stretch], change: Change::Nothing })
    }

    /// Takes a tensor that has its name, and must have this shape.
    fn vector(&mut self, name: &str, shape: &[usize]) -> Result<(), Fault> {
        let planned = self.named(name)?;
        if planned.shape != shape {
            return other(format!("`{name}` is {:?}, not {shape:?}", planned.shape));
        }
        self.tensors.insert(name.into(), planned);
        Ok(())
    }

    /// Takes a linear map, whose weight may be nameless and transposed. Returns its rows.
    fn linear(&mut self, name: &str, columns: usize) -> Result<usize, Fault> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let planned = match self.weights.get(&weight) {
            Some(nameless) => {
                let tensor = self.graph.tensor(nameless);
                let Some(tensor) = tensor else { return other(format!("`{weight}` is missing")) };
                let (mut shape, stretch) = tensor.stored()?;
                self.used.insert((*nameless).to_owned());
                shape.reverse();
                Planned { shape, from: vec![stretch], change: Change::Transposed }
            }
            None => self.named(&weight)?,
        };
        let [rows, found] = planned.shape[..] else {
            return other(format!("`{weight}` is {:?}", planned.shape));
        };
        if found != columns {
            return other(format!("`{weight}` takes {found} values, not {columns}"));
        }
        self.tensors.insert(weight, planned);
        self.vector(&bias, &[rows])?;
        Ok(rows)
    }

    /// Takes a layer; returns its heads and its inner width.
    fn layer(&mut self, layer: usize, width: usize) -> Result<(usize, usize), Fault> {
        let at = |name: &str| format!("encoder.layer.{layer}.{name}");
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            self.vector(&at(name), &[width])?;
        }
        for name in ["layer_scale1.lambda1", "layer_scale2.lambda1"] {
            self.vector(&at(name), &[width])?;
        }
        for name in ["query", "key", "value"] {
            let rows = self.linear(&at(&format!("attention.attention.{name}")), width)?;
            if rows != width {
                return other(format!("{name} of layer {layer} has {rows} values, not {width}"));
            }
        }
        let out = self.linear(&at("attention.output.dense"), width)?;
        let inner = self.linear(&at("mlp.fc1"), width)?;
        let back = self.linear(&at("mlp.fc2"), inner)?;
        if (out, back) != (width, width) {
            return other(format!("layer {layer} does not come back to {width} values"));
        }
        self.check_activation(&at("mlp.fc1.bias"), layer)?;
        Ok((self.heads(&at("attention.attention.query.bias"), width)?, inner))
    }

    /// The sum of a linear map and its bias.
    fn sum(&self, bias: &str) -> Option<&'g str> {
        let full = format!("{}{bias}", self.prefix);
        let node = self.graph.users(&full).find(|node| node.op == "Add")?;
        node.outputs.first().map(String::as_str)
    }

    /// The number of heads, from the shape that queries get: its last two sides.
    fn heads(&self, bias: &str, width: usize) -> Result<usize, Fault> {
        let graph = self.graph;
        let shape = self.sum(bias).and_then(|sum| {
            let reshape = graph.users(sum).find(|node| node.op == "Reshape")?;
            let shape = reshape.inputs.get(1)?;
            let last: Vec<i64> = match graph.maker(shape) {
                Some(node) if node.op == "Concat" => {
                    let one = |value: &String| Some(graph.constant(value)?.whole.last().copied());
                    node.inputs.iter().filter_map(one).flatten().collect()
                }
                _ => graph.constant(shape)?.whole.clone(),
            };
            last.last_chunk::<2>().copied()
        });
        let sides = shape.map(|sides| sides.map(|n| usize::try_from(n).unwrap_or(0)));
        match sides {
            Some([heads, dim]) if heads > 0 && heads.checked_mul(dim) == Some(width) => Ok(heads),
            _ => other(format!("the number of heads cannot be told from what follows `{bias}`")),
        }
    }

    /// That the feed-forward has GELU, exact and not approximate.
    fn check_activation(&self, bias: &str, layer: usize) -> Result<(), Fault> {
        let graph = self.graph;
        let exact = |node: &Node| {
            let approximate = node.attribute("approximate").map(|a| a.text.as_slice());
            node.op == "Gelu" && matches!(approximate, None | Some(b"none"))
        };
        let found = self.sum(bias).is_some_and(|sum| {
            let divided = graph.users(sum).filter(|node| node.op == "Div");
            let mut after = divided.filter_map(|node| node.outputs.first());
            graph.users(sum).any(exact)
                || after.any(|value| graph.users(value).any(|node| node.op == "Erf"))
        });
        if found {
            Ok(())
        } else {
            other(format!("layer {layer} has another activation than GELU"))
        }
    }

    /// That patches do not overlap.
    fn check_patches(&self, patch: usize) -> Result<(), Fault> {
        let full = format!("{}{PATCHES}", self.prefix);
        let steps = self.graph.users(&full).find(|node| node.op == "Conv");
        let list = |name: &str| steps?.attribute(name).map(|a| a.whole.clone());
        let plain = list("strides") == Some(vec![patch as i64; 2])
            && list("pads").is_none_or(|pads| pads.iter().all(|n| *n == 0))
            && list("dilations").is_none_or(|d| d.iter().all(|n| *n == 1))
            && list("group").is_none_or(|group| group == [1]);
        if plain { Ok(()) } else { other("patches are not cut side by side") }
    }

    /// The epsilon of a norm: an attribute of one node, or the constant under the root.
    fn epsilon(&self, norm: &str) -> Result<f64, Fault> {
        let graph = self.graph;
        let weight = format!("{}{norm}.weight", self.prefix);
        let found = graph.users(&weight).find_map(|node| match node.op.as_str() {
            "LayerNormalization" => Some(node.attribute("epsilon")?.float.unwrap_or(1e-5)),
            "Mul" => {
                let divided = node.inputs.iter().find(|input| **input != weight)?;
                let root = graph.maker(graph.maker(divided)?.inputs.get(1)?)?;
                let sum = graph.maker(root.inputs.first()?)?;
                let sums = root.op == "Sqrt" && sum.op == "Add" && sum.inputs.len() == 2;
                sums.then_some(())?;
                sum.inputs.iter().find_map(|input| graph.constant(input)?.float)
            }
            _ => None,
        });
        // The shortest decimal number that means it.
        let number = found.and_then(|eps| eps.to_string().parse::<f64>().ok());
        match number.filter(|eps| eps.is_finite() && *eps > 0.0) {
            Some(eps) => Ok(eps),
            None => other(format!("the epsilon of `{norm}` cannot be told")),
        }
    }

    /// Takes the position vectors, whole or in the two parts that the exporter cuts. Returns the
    /// side of the grid.
    fn positions(&mut self, width: usize) -> Result<usize, Fault> {
        let full = format!("{}{POSITIONS}", self.prefix);
        let planned = if self.graph.tensor(&full).is_some() {
            self.named(POSITIONS)?
        } else {
            self.cut_positions(width)?
        };
        let [1, places, found] = planned.shape[..] else {
            return other(format!("position vectors are {:?}", planned.shape));
        };
        let grid = (places.saturating_sub(1)).isqrt();
        if found != width || grid == 0 || grid * grid != places - 1 {
            return other(format!("{places} position vectors of {found} values are no square"));
        }
        self.tensors.insert(POSITIONS.into(), planned);
        Ok(grid)
    }

    /// The part of the class token is joined to what becomes of the part of the grid.
    fn cut_positions(&mut self, width: usize) -> Result<Planned, Fault> {
        let graph = self.graph;
        let joined = graph.nodes.iter().filter(|node| node.op == "Concat");
        let mut pairs = joined.filter_map(|node| {
            let [first, rest] = node.inputs.as_slice() else { return None };
            Some((first.as_str(), graph.tensor(first)?, resized(graph, rest)?))
        });
        let Some((first, class, grid)) =
            pairs.find(|(_, class, _)| class.dims == [1, 1, width as i64])
        else {
            return other("position vectors are missing");
        };
        let (shape, class) = class.stored()?;
        let Some(tensor) = graph.tensor(grid) else {
            return other("position vectors are missing");
        };
        let (grid_shape, rest): (Vec<usize>, Stretch) = tensor.stored()?;
        let [1, places, inner] = grid_shape[..] else {
            return damaged(format!("the grid of positions is {grid_shape:?}"));
        };
        if shape[2] != inner {
            return damaged("the two parts of the position vectors differ in width");
        }
        self.used.extend([first.to_owned(), grid.to_owned()]);
        Ok(Planned {
            shape: vec![1, places + 1, inner],
            from: vec![class, rest],
            change: Change::Nothing,
        })
    }
}

/// The tensor that a value is a resized view of.
fn resized<'g>(graph: &'g Graph, value: &'g str) -> Option<&'g str> {
    let mut value = value;
    // The exporter has seven steps; a graph may also be a circle.
    for _ in 0..32 {
        if graph.tensor(value).is_some() {
            return Some(value);
        }
        let node = graph.maker(value)?;
        let views = ["Reshape", "Transpose", "Cast", "Resize"];
        views.contains(&node.op.as_str()).then_some(())?;
        value = node.inputs.first()?;
    }
    None
}

/// A whole number where it is one, as Hugging Face writes it.
fn ratio(inner: usize, width: usize) -> Value {
    if inner.is_multiple_of(width) {
        json!(inner / width)
    } else {
        json!(inner as f64 / width as f64)
    }
}
