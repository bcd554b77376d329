//! Position tables for pictures of other sizes than those a model was trained on.

use burn::tensor::{Int, Tensor, TensorData};

/// How a grid of positions is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// PyTorch's bicubic, which looks at 4 rows even when it shrinks (DINOv2).
    Bicubic,
    /// PyTorch's bicubic with antialias (DINOv2 with registers).
    BicubicAntialias,
    /// PyTorch's bilinear with antialias, which looks at all that a place covers (SigLIP 2).
    BilinearAntialias,
}

/// Resizes `table: [rows · cols, width]`, row after row, to another grid.
///
/// As `torch.nn.functional.interpolate` with `align_corners=False` does.
pub(super) fn resize(
    table: Tensor<2>,
    from: (usize, usize),
    to: (usize, usize),
    kernel: Kernel,
) -> Tensor<2> {
    let width = table.dims()[1];
    let device = table.device();
    let matrix = |to: usize, from: usize| {
        let values = weights(kernel, to, from);
        Tensor::<2>::from_data(TensorData::new(values, [to, from]), &device)
    };
    // Rows first: [to rows, from cols · width].
    let x = matrix(to.0, from.0).matmul(table.reshape([from.0, from.1 * width]));
    let x = x.reshape([to.0, from.1, width]).swap_dims(0, 1).reshape([from.1, to.0 * width]);
    let x = matrix(to.1, from.1).matmul(x);
    x.reshape([to.1, to.0, width]).swap_dims(0, 1).reshape([to.0 * to.1, width])
}

/// Picks from `table: [rows · cols, width]` the row of each patch of another grid: that of the place
/// in which the patch's own corner lies.
///
/// As Idefics 3 does; `shifted` as in transformers 4.55 to 4.57, which take a corner to lie a
/// millionth nearer to the start.
pub(super) fn pick(
    table: Tensor<2>,
    from: (usize, usize),
    to: (usize, usize),
    shifted: bool,
) -> Tensor<2> {
    let (rows, cols) = (buckets(to.0, from.0, shifted), buckets(to.1, from.0, shifted));
    if !shifted && to == from && rows.iter().chain(&cols).copied().eq((0..to.0).chain(0..to.1)) {
        return table;
    }
    let places: Vec<i64> = rows
        .iter()
        .flat_map(|row| cols.iter().map(move |col| (row * from.1 + col) as i64))
        .collect();
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &table.device());
    table.select(0, places)
}

/// The place of each of `to` patches among `from`.
fn buckets(to: usize, from: usize, shifted: bool) -> Vec<usize> {
    if !shifted {
        // Exactly; where a corner lies on a border, torch's rounding decides for some sizes.
        return (0..to).map(|i| i * from / to).collect();
    }
    let step = 1.0 / from as f64;
    let borders: Vec<f32> = (1..from).map(|i| (step * i as f64) as f32).collect();
    let at = |i: usize| i as f32 / to as f32 * (1.0 - 1e-6_f64) as f32;
    (0..to).map(|i| borders.iter().filter(|border| **border <= at(i)).count()).collect()
}

/// `[to, from]`: how much of each old place goes into each new one.
fn weights(kernel: Kernel, to: usize, from: usize) -> Vec<f32> {
    let mut matrix = vec![0f32; to * from];
    let scale = from as f32 / to as f32;
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        match kernel {
            Kernel::Bicubic => {
                let at = scale * (i as f32 + 0.5) - 0.5;
                let first = at.floor();
                for k in -1..=2i64 {
                    let place = (first as i64 + k).clamp(0, from as i64 - 1) as usize;
                    row[place] += cubic(at - first - k as f32, -0.75);
                }
            }
            Kernel::BicubicAntialias | Kernel::BilinearAntialias => {
                let stretch = scale.max(1.0);
                let reach = if kernel == Kernel::BicubicAntialias { 2.0 } else { 1.0 } * stretch;
                let centre = scale * (i as f32 + 0.5);
                let low = ((centre - reach + 0.5) as i64).max(0) as usize;
                let high = ((centre + reach + 0.5) as usize).min(from);
                for place in low..high {
                    let x = (place as f32 - centre + 0.5) / stretch;
                    row[place] = match kernel {
                        Kernel::BicubicAntialias => cubic(x, -0.5),
                        _ => (1.0 - x.abs()).max(0.0),
                    };
                }
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
    }
    matrix
}

/// Keys's cubic; PyTorch has `a = −0.75`, and −0.5 with antialias.
fn cubic(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const KERNELS: [Kernel; 3] =
        [Kernel::Bicubic, Kernel::BicubicAntialias, Kernel::BilinearAntialias];

    #[test]
    fn the_same_size_changes_nothing() {
        let values: Vec<f32> = (0..24).map(|i| (i * i % 7) as f32).collect();
        let table = Tensor::from_data(TensorData::new(values.clone(), [12, 2]), &Device::flex());
        for kernel in KERNELS {
            let same = resize(table.clone(), (3, 4), (3, 4), kernel).into_data();
            assert_eq!(same.try_to_vec::<f32>().unwrap(), values);
        }
    }

    #[test]
    fn patches_find_the_place_where_they_lie() {
        assert_eq!(buckets(4, 4, false), [0, 1, 2, 3]);
        assert_eq!(buckets(6, 4, false), [0, 0, 1, 2, 2, 3]);
        // As torch 2.9 has them with the formula of transformers 4.57.
        assert_eq!(buckets(4, 4, true), [0, 0, 1, 2]);
        assert_eq!(buckets(6, 4, true), [0, 0, 1, 1, 2, 3]);
        assert_eq!(buckets(9, 14, true), [0, 1, 3, 4, 6, 7, 9, 10, 12]);
        // The sides of published models.
        for side in [16, 24, 26, 27, 32] {
            assert!(buckets(side, side, false).into_iter().eq(0..side));
        }
    }

    #[test]
    fn what_is_even_stays_even() {
        for kernel in KERNELS {
            for (to, from) in [(1, 5), (3, 7), (9, 4), (37, 16), (2, 1)] {
                for row in weights(kernel, to, from).chunks(from) {
                    let sum: f32 = row.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-6, "{kernel:?} {from} to {to}: {sum}");
                }
            }
        }
    }
}
