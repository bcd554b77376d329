//! Opens the folder of a generative model and writes it again, for `xtask/golden/generative.py --check`:
//! `cargo run --release --example rewrite -- FROM TO`.

use std::path::PathBuf;

use burn::tensor::Device;
use vlm_fusion::GenerativeFolder;
use vlm_store::Float;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = folders.as_slice() else {
        return Err("give a folder to read and one to write".into());
    };
    Ok(GenerativeFolder::open(from, &Device::default())?.save(to, Float::F16)?)
}
