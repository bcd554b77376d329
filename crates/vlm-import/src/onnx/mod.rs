//! ONNX, the format of exported graphs.
//!
//! A graph is a program, not a model, so only one shape of graph is imported: a DINOv2 encoder
//! (arXiv 2304.07193) that PyTorch's exporter wrote from transformers' `Dinov2Model`, alone or inside
//! a larger model. Its parameters keep their names, except that linear weights are transposed and
//! nameless: each is known by the bias that is added to its product. Position vectors are cut in two
//! by the exporter, the number of heads stands in a shape, and the epsilon of norms in a constant.

mod dino;
mod graph;
mod wire;

use std::io::{Read, Seek};

use crate::error::Fault;
use crate::input::Input;
use crate::plan::Plan;

/// Looks an ONNX file over.
pub(crate) fn plan<R: Read + Seek>(mut input: Input<R>) -> Result<Plan<R>, Fault> {
    let graph = graph::read(&mut input)?;
    dino::plan(input, &graph)
}
