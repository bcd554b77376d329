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

/// Of `steps` equal steps from 0.1 to 1, as PyTorch's linspace has them: from both ends, each rounded
/// once.
fn bound(i: usize, steps: usize) -> f32 {
    let step = (1.0f32 - 0.1) / steps as f32;
    match i < steps.div_ceil(2) {
        true => step.mul_add(i as f32, 0.1),
        false => (-step).mul_add((steps - i) as f32, 1.0),
    }
}

/// Steps from −1 to 1 that bitsandbytes tells apart on a CPU, since version 0.50.
const STEPS: f32 = 65_535.0;

/// The code of the number of the map that is nearest to a number from −1 to 1, which is first rounded to
/// one of [`STEPS`]; of two as near, of the lower.
pub fn nearest(map: &[f32], x: f32) -> u8 {
    let step = ((x.clamp(-1.0, 1.0) + 1.0) * 0.5 * STEPS + 0.5).floor();
    let x = -1.0 + 2.0 * step / STEPS;
    let above = map.partition_point(|value| *value < x);
    let Some(below) = above.checked_sub(1) else { return 0 };
    let Some(next) = map.get(above) else { return below as u8 };
    let middle = 0.5 * (map[below] + next);
    (if x > middle { above } else { below }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_as_near_the_lower_is_taken() {
        // Numbers that are steps.
        let step = |i: f32| -1.0 + 2.0 * i / STEPS;
        let map = [step(0.0), step(40_000.0), step(40_002.0)];
        let codes = [-2.0, step(20_000.0), step(20_001.0), step(40_001.0), 9.0];
        assert_eq!(codes.map(|x| nearest(&map, x)), [0, 0, 1, 1, 2]);
    }
}
