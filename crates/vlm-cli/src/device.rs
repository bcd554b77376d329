//! The backends that this build has.

use anyhow::Result;
use burn::tensor::Device;

use crate::output::Usage;

/// The default of `--device`: the first backend that is built in.
pub const DEFAULT: &str = if cfg!(feature = "flex") {
    "flex"
} else if cfg!(feature = "tch") {
    "tch"
} else if cfg!(feature = "cuda") {
    "cuda"
} else if cfg!(feature = "rocm") {
    "rocm"
} else {
    "wgpu"
};

/// The help text of `--device`.
pub const HELP: &str = "Where to compute: flex (pure-Rust CPU), tch or tch:N (libtorch on the \
CPU or on CUDA device N), cuda[:N], rocm[:N], wgpu, wgpu:cpu, vulkan, metal; those that this \
program was built with";

/// Opens a device by name.
///
/// # Errors
/// If it is not built in, or there is no such device.
pub fn open(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (name, None),
    };
    let number = || -> Result<usize> {
        let index = index.unwrap_or("0");
        index.parse().map_err(|_| Usage(format!("--device {name}: `{index}` is no number")).into())
    };
    let _ = &number;
    match kind {
        #[cfg(feature = "flex")]
        "flex" if index.is_none() => Ok(Device::flex()),
        #[cfg(feature = "tch")]
        #[allow(deprecated)]
        "tch" if index.is_none() || index == Some("cpu") => Ok(Device::libtorch()),
        #[cfg(feature = "tch")]
        #[allow(deprecated)]
        "tch" => Ok(Device::libtorch_cuda(number()?)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(number()?)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(number()?)),
        #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
        "wgpu" | "vulkan" | "metal" => {
            use burn::tensor::DeviceKind;
            let kind = match index {
                None => DeviceKind::DefaultDevice,
                Some("cpu") => DeviceKind::Cpu,
                Some(_) => DeviceKind::DiscreteGpu(number()?),
            };
            Ok(Device::wgpu(kind))
        }
        _ => Err(Usage(format!(
            "--device {name}: not in this build, which has {}; build with --features {kind}",
            built_in().join(", ")
        ))
        .into()),
    }
}

fn built_in() -> Vec<&'static str> {
    [
        ("flex", cfg!(feature = "flex")),
        ("tch", cfg!(feature = "tch")),
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("wgpu", cfg!(any(feature = "wgpu", feature = "vulkan", feature = "metal"))),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}
