//! Boxes against the truth.

use serde::Serialize;

use super::BBox;

/// Pairs of a predicted and a true box (places in the lists), each in one pair at most, such that
/// the sum of their intersections over union is the largest there is; pairs without any overlap
/// are left out.
///
/// The Hungarian method, in time of boxes cubed.
pub fn matched(predicted: &[BBox], truth: &[BBox]) -> Vec<(usize, usize)> {
    let side = predicted.len().max(truth.len());
    // Costs of a square, so that each row finds a column; row and column 0 stand for nothing.
    let overlap = |p: usize, t: usize| match (predicted.get(p), truth.get(t)) {
        (Some(p), Some(t)) => p.iou(t),
        _ => 0.0,
    };
    let (mut row_price, mut column_price) = (vec![0.0; side + 1], vec![0.0; side + 1]);
    let mut row_of = vec![0; side + 1];
    for row in 1..=side {
        row_of[0] = row;
        let mut column = 0;
        let mut least = vec![f64::INFINITY; side + 1];
        let mut came_from = vec![0; side + 1];
        let mut seen = vec![false; side + 1];
        while row_of[column] != 0 {
            seen[column] = true;
            let current = row_of[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for j in (1..=side).filter(|j| !seen[*j]) {
                let cost = -overlap(current - 1, j - 1) - row_price[current] - column_price[j];
                if cost < least[j] {
                    (least[j], came_from[j]) = (cost, column);
                }
                if least[j] < step {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=side {
                if seen[j] {
                    row_price[row_of[j]] += step;
                    column_price[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            row_of[column] = row_of[came_from[column]];
            column = came_from[column];
        }
    }
    let pairs = (1..=side).map(|column| (row_of[column] - 1, column - 1));
    let mut pairs: Vec<(usize, usize)> = pairs.filter(|(p, t)| overlap(*p, *t) > 0.0).collect();
    pairs.sort_unstable();
    pairs
}

/// How well boxes were found, summed over pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// True boxes.
    pub boxes: usize,
    /// Sum of the true boxes' intersections over union with the predicted ones that they are
    /// matched with; those without one count as 0.
    pub overlap: f64,
    /// True boxes whose intersection over union is at least one half.
    pub half: usize,
    /// True boxes that hold the middle of the predicted one (the pointing game).
    pub pointed: usize,
    /// Predicted boxes that match none.
    pub surplus: usize,
}

impl Score {
    /// Adds what was predicted for a picture. One predicted and one true box belong together
    /// whether they overlap or not; more are [`matched`].
    pub fn add(&mut self, predicted: &[BBox], truth: &[BBox]) {
        let pairs = match (predicted, truth) {
            ([_], [_]) => vec![(0, 0)],
            _ => matched(predicted, truth),
        };
        self.boxes += truth.len();
        self.surplus += predicted.len() - pairs.len();
        for (p, t) in pairs {
            let (predicted, truth) = (&predicted[p], &truth[t]);
            let overlap = predicted.iou(truth);
            self.overlap += overlap;
            self.half += usize::from(overlap >= 0.5);
            self.pointed += usize::from(truth.holds(predicted.middle()));
        }
    }

    /// Mean intersection over union of the true boxes, from 0 to 1.
    pub fn mean_iou(&self) -> f64 {
        self.share(self.overlap)
    }

    /// Share of true boxes with at least one half.
    pub fn at_half(&self) -> f64 {
        self.share(self.half as f64)
    }

    /// Share of true boxes that hold the middle of the predicted one.
    pub fn pointing(&self) -> f64 {
        self.share(self.pointed as f64)
    }

    fn share(&self, of: f64) -> f64 {
        if self.boxes == 0 { 0.0 } else { of / self.boxes as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbox(left: f64, right: f64) -> BBox {
        BBox::new([left, 0.0, right, 1.0]).unwrap()
    }

    /// The best sum by trying every order.
    fn best(predicted: &[BBox], truth: &[BBox]) -> f64 {
        let Some((first, rest)) = predicted.split_first() else { return 0.0 };
        let mut most = best(rest, truth);
        for i in 0..truth.len() {
            let mut left = truth.to_vec();
            let other = left.remove(i);
            most = most.max(first.iou(&other) + best(rest, &left));
        }
        most
    }

    #[test]
    fn the_best_pairs_are_found() {
        // Greedy would take the middle pair and lose the outer ones.
        let (predicted, truth) =
            ([bbox(0.0, 0.5), bbox(0.3, 0.8)], [bbox(0.25, 0.7), bbox(0.1, 0.4)]);
        assert_eq!(matched(&predicted, &truth), [(0, 1), (1, 0)]);
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for (p, t) in [(0, 3), (3, 0), (1, 4), (4, 2), (5, 5), (3, 5)] {
            let mut list =
                |n: usize| -> Vec<BBox> { (0..n).map(|_| bbox(draw(), draw())).collect() };
            let (predicted, truth) = (list(p), list(t));
            let pairs = matched(&predicted, &truth);
            let sum: f64 = pairs.iter().map(|(p, t)| predicted[*p].iou(&truth[*t])).sum();
            assert!((sum - best(&predicted, &truth)).abs() < 1e-9, "{p} {t}");
        }
    }

    #[test]
    fn scores_are_shares_of_true_boxes() {
        let mut score = Score::default();
        score.add(&[bbox(0.0, 0.5)], &[bbox(0.0, 0.5)]);
        score.add(&[bbox(0.0, 0.5)], &[bbox(0.25, 0.5)]);
        score.add(&[bbox(0.0, 0.2)], &[bbox(0.5, 0.6)]);
        score.add(&[], &[bbox(0.5, 0.6)]);
        score.add(&[bbox(0.0, 0.2), bbox(0.9, 1.0)], &[bbox(0.0, 0.2)]);
        assert_eq!((score.boxes, score.surplus), (5, 1));
        assert!((score.mean_iou() - (1.0 + 0.5 + 0.0 + 0.0 + 1.0) / 5.0).abs() < 1e-12);
        assert!((score.at_half() - 0.6).abs() < 1e-12);
        assert!((score.pointing() - 0.6).abs() < 1e-12);
        assert_eq!(Score::default().mean_iou(), 0.0);
    }
}
