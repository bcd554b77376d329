//! The parts of a graph that are looked at.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::wire::{Value, message, whole};
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::gguf::Kind;
use crate::input::Input;
use crate::plan::Stretch;

/// A tensor of the file: a parameter, or a constant.
#[derive(Clone, Debug, Default)]
pub(super) struct Tensor {
    pub name: String,
    pub dims: Vec<i64>,
    kind: u64,
    /// Where its bytes lie, and how many there are.
    place: Option<(u64, u64)>,
    external: bool,
    /// Numbers that are not in a row of bytes.
    whole: Vec<i64>,
    /// The numbers of a small tensor of whole numbers, or of one float.
    pub small: Small,
}

/// What a constant says.
#[derive(Clone, Debug, Default)]
pub(super) struct Small {
    pub whole: Vec<i64>,
    pub float: Option<f32>,
}

const FLOAT: u64 = 1;
const INT32: u64 = 6;
const INT64: u64 = 7;
/// Bytes of a constant that is read: shapes and scales.
const MAX_SMALL: u64 = 512;

impl Tensor {
    /// Its shape and its place in the file.
    pub(super) fn stored(&self) -> Result<(Vec<usize>, Stretch), Fault> {
        let shown = quoted(&self.name);
        if self.external {
            return unsupported(format!("tensor {shown} lies in another file, which is not read"));
        }
        if self.kind != FLOAT {
            return unsupported(format!(
                "tensor {shown} has ONNX type {}; only 1 (float) is imported",
                self.kind
            ));
        }
        let size = |dim: &i64| usize::try_from(*dim).ok().filter(|n| *n > 0);
        let shape: Option<Vec<usize>> = self.dims.iter().map(size).collect();
        let count = shape.as_ref().and_then(|shape| {
            shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side))
        });
        match (shape, count, self.place) {
            (Some(shape), Some(count), Some((start, len)))
                if count.checked_mul(4).is_some_and(|wanted| wanted as u64 == len) =>
            {
                Ok((shape, Stretch { start, kind: Kind::F32, count }))
            }
            _ => damaged(format!(
                "tensor {shown} of shape {:?} has {} bytes",
                &self.dims[..self.dims.len().min(8)],
                self.place.map_or(0, |(_, len)| len)
            )),
        }
    }
}

/// An attribute of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    pub name: String,
    pub float: Option<f32>,
    pub whole: Vec<i64>,
    pub text: Vec<u8>,
    pub tensor: Option<Tensor>,
}

/// An operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub op: String,
    pub attributes: Vec<Attribute>,
}

impl Node {
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }
}

/// A graph and the ways through it.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    tensors: HashMap<String, Tensor>,
    /// Names of tensors that are the same as another, which is the one that was kept.
    same: HashMap<String, String>,
    /// The node that makes a value.
    makers: HashMap<String, usize>,
    /// The nodes that a value goes into.
    users: HashMap<String, Vec<usize>>,
}

impl Graph {
    /// The tensor of a name; where the exporter kept one of several that are the same, that one.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        let kept = self.same.get(name).map_or(name, String::as_str);
        self.tensors.get(kept)
    }

    /// All names of tensors, those of the same ones included.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().chain(self.same.keys()).map(String::as_str)
    }

    pub(super) fn maker(&self, value: &str) -> Option<&Node> {
        self.makers.get(value).map(|nth| &self.nodes[*nth])
    }

    pub(super) fn users(&self, value: &str) -> impl Iterator<Item = &Node> {
        self.users.get(value).into_iter().flatten().map(|nth| &self.nodes[*nth])
    }

    /// The numbers of a constant: a tensor, or what a Constant node holds, with a dimension more
    /// or not.
    pub(super) fn constant(&self, value: &str) -> Option<&Small> {
        if let Some(tensor) = self.tensor(value) {
            return Some(&tensor.small);
        }
        let node = self.maker(value)?;
        match node.op.as_str() {
            "Constant" => Some(&node.attribute("value")?.tensor.as_ref()?.small),
            "Unsqueeze" | "Identity" => {
                let inner = node.inputs.first()?;
                Some(&self.maker(inner)?.attribute("value")?.tensor.as_ref()?.small)
            }
            _ => None,
        }
    }
}

/// Reads the graph of a model; values stay in the file.
pub(super) fn read<R: Read + Seek>(input: &mut Input<R>) -> Result<Graph, Fault> {
    let mut graph = Graph::default();
    let mut there = false;
    let len = input.len();
    message(input, len, &mut |input, field, value| match (field, value) {
        (7, Value::Bytes(len)) => {
            if std::mem::replace(&mut there, true) {
                return damaged("it has two graphs");
            }
            body(input, len, &mut graph)?;
            Ok(true)
        }
        _ => Ok(false),
    })?;
    if !there {
        return damaged("it has no graph, so it is not ONNX");
    }
    for (nth, node) in graph.nodes.iter().enumerate() {
        for value in node.outputs.iter().filter(|value| !value.is_empty()) {
            let made = graph.makers.insert(value.clone(), nth).is_some();
            if made || graph.tensors.contains_key(value) {
                return damaged(format!("two nodes make the value {}", quoted(value)));
            }
        }
        for value in &node.inputs {
            let users = graph.users.entry(value.clone()).or_default();
            if users.last() != Some(&nth) {
                users.push(nth);
            }
        }
        // Nodes come after what they need, so one pass follows all chains.
        if let ("Identity", [from], [to]) = (&node.op[..], &node.inputs[..], &node.outputs[..]) {
            let kept = graph.same.get(from).unwrap_or(from).clone();
            if graph.tensors.contains_key(&kept) {
                graph.same.insert(to.clone(), kept);
            }
        }
    }
    Ok(graph)
}

fn body<R: Read + Seek>(input: &mut Input<R>, len: u64, graph: &mut Graph) -> Result<(), Fault> {
    message(input, len, &mut |input, field, value| match (field, value) {
        (1, Value::Bytes(len)) => {
            graph.nodes.push(node(input, len)?);
            Ok(true)
        }
        (5, Value::Bytes(len)) => {
            let tensor = tensor(input, len)?;
            let shown = quoted(&tensor.name);
            if graph.tensors.insert(tensor.name.clone(), tensor).is_some() {
                return damaged(format!("tensor {shown} is there twice"));
            }
            Ok(true)
        }
        _ => Ok(false),
    })
}

fn node<R: Read + Seek>(input: &mut Input<R>, len: u64) -> Result<Node, Fault> {
    let mut node = Node::default();
    message(input, len, &mut |input, field, value| {
        match (field, value) {
            (1, Value::Bytes(len)) => node.inputs.push(input.text(len)?),
            (2, Value::Bytes(len)) => node.outputs.push(input.text(len)?),
            (4, Value::Bytes(len)) => node.op = input.text(len)?,
            (5, Value::Bytes(len)) => node.attributes.push(attribute(input, len)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(node)
}

fn attribute<R: Read + Seek>(input: &mut Input<R>, len: u64) -> Result<Attribute, Fault> {
    let mut attribute = Attribute::default();
    message(input, len, &mut |input, field, value| {
        match (field, value) {
            (1, Value::Bytes(len)) => attribute.name = input.text(len)?,
            (2, Value::Float(float)) => attribute.float = Some(float),
            (3 | 8, value) => return whole(input, &value, &mut attribute.whole),
            (4, Value::Bytes(len)) => attribute.text = input.bytes(len)?,
            (5, Value::Bytes(len)) => attribute.tensor = Some(tensor(input, len)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(attribute)
}

fn tensor<R: Read + Seek>(input: &mut Input<R>, len: u64) -> Result<Tensor, Fault> {
    let mut tensor = Tensor::default();
    message(input, len, &mut |input, field, value| match (field, value) {
        (1, value) => whole(input, &value, &mut tensor.dims),
        (2, Value::Whole(kind)) => {
            tensor.kind = kind;
            Ok(true)
        }
        // Floats in a row are the same bytes as raw ones.
        (4 | 9, Value::Bytes(len)) => {
            tensor.place = Some((input.at(), len));
            Ok(false)
        }
        (5 | 7, value) => whole(input, &value, &mut tensor.whole),
        (8, Value::Bytes(len)) => {
            tensor.name = input.text(len)?;
            Ok(true)
        }
        (14, Value::Whole(1)) => {
            tensor.external = true;
            Ok(true)
        }
        _ => Ok(false),
    })?;
    let end = input.at();
    let numbers = std::mem::take(&mut tensor.whole);
    tensor.small = small(input, &tensor, numbers)?;
    input.go(end)?;
    Ok(tensor)
}

fn small<R: Read + Seek>(
    input: &mut Input<R>,
    tensor: &Tensor,
    numbers: Vec<i64>,
) -> Result<Small, Fault> {
    let Some((start, len)) = tensor.place.filter(|(_, len)| *len <= MAX_SMALL) else {
        return Ok(Small { whole: numbers, float: None });
    };
    input.go(start)?;
    let raw = input.bytes(len)?;
    let whole = match tensor.kind {
        INT64 => raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        INT32 => raw.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        _ => numbers,
    };
    let float = match (tensor.kind, raw.as_slice()) {
        (FLOAT, [a, b, c, d]) => Some(f32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    };
    Ok(Small { whole, float })
}
