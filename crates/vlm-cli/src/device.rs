//! The backends that this build has.

use std::panic::catch_unwind;

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};

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

/// Opens a device by name and has it compute something.
///
/// # Errors
/// If it is not built in, or there is no such device.
pub fn open(name: &str) -> Result<Device> {
    // Burn's backends panic where there is no adapter or driver, some only at the first use.
    let tried = catch_unwind(|| {
        let device = by_name(name)?;
        let sum: f32 = Tensor::<1>::ones([2], &device).sum().into_scalar();
        if sum == 2.0 { Ok(device) } else { bail!("--device {name}: 1 + 1 gave {sum}") }
    });
    tried.unwrap_or_else(|cause| {
        let reason = crate::panics::reason(cause.as_ref());
        bail!("--device {name}: cannot be used here ({reason}); choose another --device")
    })
}

fn by_name(name: &str) -> Result<Device> {
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
        // Which of these is left depends on the build.
        #[allow(unreachable_patterns)]
        "flex" | "tch" | "cuda" | "rocm" | "wgpu" | "vulkan" | "metal" => Err(Usage(format!(
            "--device {name}: this build has {}; build with --features {kind}",
            built_in().join(", ")
        ))
        .into()),
        _ => {
            let known = built_in().join(", ");
            Err(Usage(format!("--device {name}: no such device; this build has {known}")).into())
        }
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
