//! What tests of operations share.

// Each test binary uses its part of this.
#![allow(dead_code)]

use burn::tensor::{Device, Tensor, TensorData};

pub fn devices() -> Vec<Device> {
    #[allow(unused_mut)]
    let mut devices = vec![Device::flex()];
    #[cfg(feature = "tch")]
    #[allow(deprecated)]
    devices.push(Device::libtorch());
    #[cfg(feature = "wgpu")]
    devices.push(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));
    devices
}

/// Values that look random but are the same everywhere.
pub fn input<const D: usize>(shape: [usize; D], seed: usize, device: &Device) -> Tensor<D> {
    let len = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..len)
        .map(|i| (((i * 7919 + seed * 104_729 + 13) % 2003) as f32 / 1001.0 - 1.0) * 1.5)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

pub fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().convert::<f32>().try_to_vec().unwrap()
}

pub fn close(what: &str, got: &[f32], want: &[f32], relative: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1f32, |a, b| a.max(b.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= relative * scale, "{what}[{i}]: {g} against {w}");
    }
}
