//! The eight bits in which the largest values of blocks are kept.

/// What the 256 codes of bitsandbytes' signed dynamic map stand for, in order: numbers whose places are
/// the denser the nearer they are to 0.
pub fn dynamic_map() -> Vec<f32> {
    let mut map = vec![0.0, 1.0];
    for exponent in 0..7 {
        let steps = 1usize << exponent;
        let bounds: Vec<f32> = (0..=steps).map(|i| bound(i, steps)).collect();
        let unit = 10f64.powi(exponent - 6) as f32;
        for pair in bounds.windows(2) {
            let value = unit * ((pair[0] + pair[1]) / 2.0);
            map.extend([value, -value]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// Of `steps` equal steps from 0.1 to 1, as PyTorch's linspace has them: from both ends.
fn bound(i: usize, steps: usize) -> f32 {
    let step = (1.0f32 - 0.1) / steps as f32;
    if i < steps.div_ceil(2) { 0.1 + step * i as f32 } else { 1.0 - step * (steps - i) as f32 }
}

/// The code of the nearest number of the map; of two as near, of the lower.
pub fn nearest(map: &[f32], x: f32) -> u8 {
    let above = map.partition_point(|value| *value < x);
    let Some(below) = above.checked_sub(1) else { return 0 };
    let Some(next) = map.get(above) else { return below as u8 };
    let middle = (map[below] + next) / 2.0;
    (if x > middle { above } else { below }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_as_near_the_lower_is_taken() {
        let map = [0.0, 1.0, 2.0];
        let codes = [-1.0, 0.5, 0.51, 1.5, 9.0].map(|x| nearest(&map, x));
        assert_eq!(codes, [0, 0, 1, 1, 2]);
    }
}
