//! From a picture to what a model sees of it, and back.

use super::BBox;

/// What became of a picture before a model saw it: steps of resizing, padding and cutting, each
/// a scale and a shift.
///
/// ```
/// use vlm_fusion::spatial::{BBox, Frame};
///
/// // A picture of 200x100, letterboxed to a square of 64 with bars above and below.
/// let frame = Frame::new((200, 100)).letterbox(64);
/// let whole = BBox::new([0.0, 0.0, 1.0, 1.0]).unwrap();
/// assert_eq!(frame.seen(&whole).unwrap().corners(), [0.0, 0.25, 1.0, 0.75]);
/// let lower = BBox::new([0.0, 0.5, 1.0, 0.75]).unwrap();
/// assert_eq!(frame.original(&lower).unwrap().pixels((200, 100)), [0.0, 50.0, 200.0, 100.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Width and height of the picture as it was given.
    given: [f64; 2],
    /// Width and height of what has become of it.
    size: [f64; 2],
    scale: [f64; 2],
    shift: [f64; 2],
}

impl Frame {
    /// A picture of this width and height, with nothing done to it. A side of 0 counts as 1.
    pub fn new((width, height): (u32, u32)) -> Self {
        let given = [f64::from(width.max(1)), f64::from(height.max(1))];
        Frame { given, size: given, scale: [1.0; 2], shift: [0.0; 2] }
    }

    /// Resized to this width and height, whatever that does to its shape.
    pub fn resize(mut self, (width, height): (u32, u32)) -> Self {
        let size = [f64::from(width.max(1)), f64::from(height.max(1))];
        for axis in 0..2 {
            let by = size[axis] / self.size[axis];
            self.scale[axis] *= by;
            self.shift[axis] *= by;
        }
        self.size = size;
        self
    }

    /// With bars of so many pixels on its left, top, right and bottom.
    pub fn pad(mut self, [left, top, right, bottom]: [u32; 4]) -> Self {
        for (axis, before, behind) in [(0, left, right), (1, top, bottom)] {
            self.shift[axis] += f64::from(before);
            self.size[axis] += f64::from(before) + f64::from(behind);
        }
        self
    }

    /// Cut to a width and height, from this place on. A place outside is allowed, as by a centre
    /// crop that is larger than the picture: what is not there is a bar.
    pub fn crop(mut self, [left, top]: [i64; 2], (width, height): (u32, u32)) -> Self {
        self.shift[0] -= left as f64;
        self.shift[1] -= top as f64;
        self.size = [f64::from(width.max(1)), f64::from(height.max(1))];
        self
    }

    /// Cut to a width and height in its middle, as CLIP's processors do.
    pub fn centre_crop(self, (width, height): (u32, u32)) -> Self {
        let start = |axis: usize, side: u32| ((self.size[axis] - f64::from(side)) / 2.0) as i64;
        self.crop([start(0, width), start(1, height)], (width, height))
    }

    /// Padded to a square with the picture in its middle, as LLaVA-1.5 does.
    pub fn square(self) -> Self {
        let [width, height] = self.size;
        let side = width.max(height);
        let bars = |length: f64| {
            let free = side - length;
            let before = (free / 2.0).floor();
            (before as u32, (free - before) as u32)
        };
        let ((left, right), (top, bottom)) = (bars(width), bars(height));
        self.pad([left, top, right, bottom])
    }

    /// Resized so that it just fits a square of this side, and padded to it, in the middle.
    pub fn letterbox(self, side: u32) -> Self {
        let by = f64::from(side) / self.size[0].max(self.size[1]);
        let [width, height] = self.size.map(|length| (length * by).round().max(1.0) as u32);
        self.resize((width, height)).square()
    }

    /// Where a box of the given picture is in what the model sees; none if nothing of it is left.
    pub fn seen(&self, bbox: &BBox) -> Option<BBox> {
        self.mapped(bbox, |axis, share| {
            (share * self.given[axis] * self.scale[axis] + self.shift[axis]) / self.size[axis]
        })
    }

    /// Where a box that the model says is in the given picture; none if it lies in the bars.
    pub fn original(&self, bbox: &BBox) -> Option<BBox> {
        self.mapped(bbox, |axis, share| {
            (share * self.size[axis] - self.shift[axis]) / self.scale[axis] / self.given[axis]
        })
    }

    fn mapped(&self, bbox: &BBox, map: impl Fn(usize, f64) -> f64) -> Option<BBox> {
        let [left, top, right, bottom] = bbox.corners();
        let corners = [map(0, left), map(1, top), map(0, right), map(1, bottom)];
        let outside = |low: f64, high: f64| high <= 0.0 || low >= 1.0;
        let gone = outside(corners[0], corners[2]) || outside(corners[1], corners[3]);
        if gone { None } else { BBox::new(corners) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbox(corners: [f64; 4]) -> BBox {
        BBox::new(corners).unwrap()
    }

    fn close(a: BBox, b: [f64; 4]) {
        for (a, b) in a.corners().into_iter().zip(b) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }

    #[test]
    fn steps_go_one_after_another() {
        // 400x200 -> shorter side 100 -> the middle square of 100.
        let frame = Frame::new((400, 200)).resize((200, 100)).centre_crop((100, 100));
        close(frame.seen(&bbox([0.25, 0.0, 0.75, 1.0])).unwrap(), [0.0, 0.0, 1.0, 1.0]);
        close(frame.seen(&bbox([0.0, 0.0, 0.5, 0.5])).unwrap(), [0.0, 0.0, 0.5, 0.5]);
        assert_eq!(frame.seen(&bbox([0.0, 0.0, 0.2, 1.0])), None);
        close(frame.original(&bbox([0.0, 0.5, 0.5, 1.0])).unwrap(), [0.25, 0.5, 0.5, 1.0]);
    }

    #[test]
    fn bars_are_outside_of_the_picture() {
        let frame = Frame::new((100, 50)).square();
        assert_eq!(frame.size, [100.0, 100.0]);
        close(frame.seen(&bbox([0.0, 0.0, 0.5, 1.0])).unwrap(), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(frame.original(&bbox([0.0, 0.0, 1.0, 0.25])), None);
        // What reaches into the bars is cut off.
        close(frame.original(&bbox([0.0, 0.0, 1.0, 0.5])).unwrap(), [0.0, 0.0, 1.0, 0.5]);
        let odd = Frame::new((3, 100)).letterbox(50);
        assert_eq!(odd.size, [50.0, 50.0]);
        assert_eq!(odd.shift, [24.0, 0.0]);
    }

    #[test]
    fn there_and_back_is_the_same() {
        for frame in [
            Frame::new((640, 480)).letterbox(224),
            Frame::new((37, 111)).resize((64, 64)).pad([1, 2, 3, 4]),
            Frame::new((10, 10)).crop([-3, -4], (20, 20)).resize((7, 9)),
        ] {
            let start = bbox([0.2, 0.3, 0.6, 0.9]);
            close(frame.original(&frame.seen(&start).unwrap()).unwrap(), start.corners());
        }
        assert_eq!(Frame::new((0, 0)).size, [1.0, 1.0]);
    }
}
