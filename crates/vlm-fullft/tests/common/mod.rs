//! What the tests of memory share.

use burn::module::Module;
use vlm_nn::Linear;

/// Maps one behind the other.
#[derive(Module, Debug)]
pub struct Chain {
    pub maps: Vec<Linear>,
}

/// A field of what the system says of this process, in MiB.
pub fn status(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
