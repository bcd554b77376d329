//! A box.

use serde::{Deserialize, Serialize};

/// A box as shares of a picture's width and height: from 0, left and top, to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BBox {
    /// Its left edge.
    pub left: f64,
    /// Its upper edge.
    pub top: f64,
    /// Its right edge, not left of the left one.
    pub right: f64,
    /// Its lower edge, not above the upper one.
    pub bottom: f64,
}

impl BBox {
    /// The box of left, top, right, bottom: within the picture, with corners that are the wrong
    /// way round turned. None if a number is none.
    pub fn new(corners: [f64; 4]) -> Option<Self> {
        if corners.iter().any(|corner| corner.is_nan()) {
            return None;
        }
        let [x1, y1, x2, y2] = corners.map(|corner| corner.clamp(0.0, 1.0));
        Some(BBox { left: x1.min(x2), top: y1.min(y2), right: x1.max(x2), bottom: y1.max(y2) })
    }

    /// Left, top, right, bottom.
    pub fn corners(&self) -> [f64; 4] {
        [self.left, self.top, self.right, self.bottom]
    }

    /// Its share of the picture.
    pub fn area(&self) -> f64 {
        (self.right - self.left) * (self.bottom - self.top)
    }

    /// Its middle.
    pub fn middle(&self) -> [f64; 2] {
        [(self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0]
    }

    /// Whether a point lies in it or on its edge.
    pub fn holds(&self, [x, y]: [f64; 2]) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }

    fn shared(&self, other: &BBox) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    /// Intersection over union, from 0 to 1. Boxes without area have none with anything.
    pub fn iou(&self, other: &BBox) -> f64 {
        let shared = self.shared(other);
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    /// Generalised intersection over union, from -1 to 1 (Rezatofighi et al. 2019): less the share
    /// of the box around both that neither covers, so that it tells far from near.
    pub fn generalised_iou(&self, other: &BBox) -> f64 {
        let shared = self.shared(other);
        let union = self.area() + other.area() - shared;
        let width = self.right.max(other.right) - self.left.min(other.left);
        let height = self.bottom.max(other.bottom) - self.top.min(other.top);
        let around = width * height;
        if union > 0.0 && around > 0.0 { shared / union - (around - union) / around } else { 0.0 }
    }

    /// Left, top, right, bottom in pixels of a picture of this width and height.
    pub fn pixels(&self, (width, height): (u32, u32)) -> [f64; 4] {
        let (width, height) = (f64::from(width), f64::from(height));
        [self.left * width, self.top * height, self.right * width, self.bottom * height]
    }
}

/// A box and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Located {
    /// What is in it, if that is said.
    pub label: Option<String>,
    /// Where it is.
    pub bbox: BBox,
}

impl Located {
    /// A box with a label; an empty one is none.
    pub fn new(label: &str, bbox: BBox) -> Self {
        let label = label.trim();
        Located { label: (!label.is_empty()).then(|| label.to_owned()), bbox }
    }

    /// A region of a data set, which was checked when the set was opened; else none.
    #[cfg(feature = "train")]
    pub fn of(region: &vlm_datasets::Region) -> Option<Self> {
        let bbox = BBox::new(region.corners)?;
        Some(Located::new(region.label.as_deref().unwrap_or_default(), bbox))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbox(corners: [f64; 4]) -> BBox {
        BBox::new(corners).unwrap()
    }

    #[test]
    fn boxes_are_put_in_order_and_within() {
        assert_eq!(bbox([0.5, 2.0, -1.0, 0.25]).corners(), [0.0, 0.25, 0.5, 1.0]);
        assert_eq!(bbox([0.0, 0.0, f64::INFINITY, 1.0]).corners(), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(BBox::new([f64::NAN, 0.0, 1.0, 1.0]), None);
    }

    #[test]
    fn overlap_is_measured() {
        let a = bbox([0.0, 0.0, 0.5, 0.5]);
        assert_eq!((a.iou(&a), a.generalised_iou(&a)), (1.0, 1.0));
        let b = bbox([0.25, 0.0, 0.75, 0.5]);
        assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-12);
        // The box around both has nothing that they leave free.
        assert!((a.generalised_iou(&b) - 1.0 / 3.0).abs() < 1e-12);
        let far = bbox([0.75, 0.75, 1.0, 1.0]);
        assert_eq!(a.iou(&far), 0.0);
        assert!((a.generalised_iou(&far) + 1.0 - 0.3125).abs() < 1e-12);
        let point = bbox([0.2, 0.2, 0.2, 0.2]);
        assert_eq!((point.iou(&point), point.generalised_iou(&point)), (0.0, 0.0));
        assert!(a.holds(point.middle()) && !far.holds(point.middle()));
        assert_eq!(b.pixels((100, 40)), [25.0, 0.0, 75.0, 20.0]);
    }
}
