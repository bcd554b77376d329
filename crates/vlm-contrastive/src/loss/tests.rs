use super::*;

type Input = (Tensor<2>, Tensor<2>, Tensor<1>, Tensor<1>);
const IMAGE: (usize, usize, usize) = (17, 31, 3);
const TEXT: (usize, usize, usize) = (13, 37, 8);

fn device() -> Device {
    Device::flex().autodiff()
}

fn matrix<const N: usize>(rows: &[[f32; N]]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), N]), &device())
}

fn scalar(value: f32) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![value], [1]), &device())
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().unwrap()
}

/// Values that every language makes alike, exact in 32 bits, with normalised rows.
fn features((a, m, o): (usize, usize, usize)) -> Tensor<2> {
    let value = |i: usize| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0;
    let data = TensorData::new((0..24).map(value).collect::<Vec<f32>>(), [4, 6]);
    normalize(Tensor::from_data(data, &device()))
}

fn golden(log_scale: f32, bias: f32) -> Input {
    let (image, text) = (features(IMAGE).detach(), features(TEXT).detach());
    (
        image.require_grad(),
        text.require_grad(),
        scalar(log_scale).require_grad(),
        scalar(bias).require_grad(),
    )
}

fn close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "{got:?} should be {want:?}");
    }
}

fn uneven() -> Tensor<2> {
    matrix(&[[1., 1., 0., 0.], [0., 0., 0., 0.], [0., 1., 1., 0.], [0., 1., 0., 0.]])
}

/// Numbers of open_clip 2.32.0's `ClipLoss` on the same features, in 32 bits on a CPU.
#[test]
fn info_nce_is_open_clips() {
    let (image, text, scale, _) = golden(INFO_NCE_LOG_SCALE, 0.0);
    let loss = info_nce(image.clone(), text, scale.clone(), None);
    let grads = loss.backward();
    close(&host(loss), &[3.0963962], 1e-5);
    close(&host(scale.grad(&grads).unwrap()), &[2.634463], 1e-4);
    let row = [0.5924818, -0.0227779, -1.245063, 0.4978265, -0.1174332, -1.3397183];
    close(&host(image.grad(&grads).unwrap())[..6], &row, 1e-4);
}

/// Numbers of open_clip 2.32.0's `SigLipLoss` on the same features, in 32 bits on a CPU.
#[test]
fn sigmoid_is_open_clips() {
    let (image, text, scale, bias) = golden(SIGMOID_LOG_SCALE, SIGMOID_BIAS);
    let loss = sigmoid_loss(image.clone(), text, scale.clone(), bias.clone(), None);
    let grads = loss.backward();
    close(&host(loss), &[8.502743], 1e-5);
    close(&host(scale.grad(&grads).unwrap()), &[-1.4541407], 1e-4);
    close(&host(bias.grad(&grads).unwrap()), &[-0.9906222], 1e-4);
    let row = [0.8960657, -0.2686949, -1.4339304, 0.7168719, -0.4478888, -1.6131241];
    close(&host(image.grad(&grads).unwrap())[..6], &row, 1e-4);
}

#[test]
fn the_identity_as_positives_is_the_diagonal() {
    let groups = positives_from_groups(&[9, 4, 7, 1], &[9, 4, 7, 1], &device());
    let (image, text, scale, bias) = golden(1.0, -1.0);
    let plain = info_nce(image.clone(), text.clone(), scale.clone(), None);
    let given = info_nce(image.clone(), text.clone(), scale.clone(), Some(groups.clone()));
    close(&host(given), &host(plain), 1e-6);
    let plain = sigmoid_loss(image.clone(), text.clone(), scale.clone(), bias.clone(), None);
    let given = sigmoid_loss(image, text, scale, bias, Some(groups));
    close(&host(given), &host(plain), 1e-6);
}

/// A picture with two captions beside another picture, by hand: with e = exp(1) the logits
/// are (1, 1, 0), (0, 0, 1); image 0 pays ln(2e + 1) − 1, image 1 ln(2 + e) − 1, and each
/// text ln(e + 1) − 1.
#[test]
fn two_captions_of_a_picture_share_the_target() {
    let positives = positives_from_groups(&[0, 1], &[0, 0, 1], &device());
    assert_eq!(host(positives.clone()), [1., 1., 0., 0., 0., 1.]);
    let image = matrix(&[[1., 0.], [0., 1.]]);
    let text = matrix(&[[1., 0.], [1., 0.], [0., 1.]]);
    let loss = info_nce(image, text, scalar(0.0), Some(positives));
    let e = std::f32::consts::E;
    let images = ((2.0 * e + 1.0).ln() + (2.0 + e).ln()) / 2.0 - 1.0;
    close(&host(loss), &[(images + (e + 1.0).ln() - 1.0) / 2.0], 1e-5);
}

/// Two copies of one pair: both logits of a row are equal, so each row pays ln 2 whether the
/// copies count as positives or not; but only as positives do they stop pushing apart.
#[test]
fn copies_of_a_pair_pay_ln_2_and_push_only_as_negatives() {
    let slope = |positives: Option<Tensor<2>>| {
        let image = matrix(&[[0.6, 0.8], [0.6, 0.8]]).require_grad();
        let text = matrix(&[[0.6, 0.8], [0.8, 0.6]]);
        let same = matrix(&[[0.6, 0.8], [0.6, 0.8]]);
        let loss = info_nce(image.clone(), same, scalar(0.0), positives.clone());
        close(&host(loss), &[std::f32::consts::LN_2], 1e-6);
        let loss = info_nce(image.clone(), text, scalar(0.0), positives);
        host(image.grad(&loss.backward()).unwrap())
    };
    let alone = slope(None);
    let together = slope(Some(matrix(&[[1., 1.], [1., 1.]])));
    assert!(alone[0] > 0.04 && alone[2] < -0.04, "{alone:?}");
    assert!(together.iter().all(|g| g.abs() < 0.01), "{together:?}");
}

/// A column and a row without a positive leave a problem of two pairs, with the lonely ones
/// still standing as negatives; no positive at all is a loss of 0.
#[test]
fn the_unanswered_are_not_counted() {
    let (image, text) = (matrix(&[[1., 0.], [0., 1.], [0., 0.]]), matrix(&[[1., 0.], [0., 1.]]));
    let positives = matrix(&[[1., 0.], [0., 1.], [0., 0.]]);
    let loss = info_nce(image.clone(), text.clone(), scalar(0.0), Some(positives.clone()));
    let e = std::f32::consts::E;
    close(&host(loss), &[((e + 1.0).ln() - 1.0 + (e + 2.0).ln() - 1.0) / 2.0], 1e-6);
    assert_eq!(host(info_nce(image, text, scalar(0.0), Some(positives.zeros_like()))), [0.0]);
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let losses: [fn(Input) -> Tensor<1>; 2] = [
        |(i, t, s, _)| info_nce(i, t, s, Some(uneven())),
        |(i, t, s, b)| sigmoid_loss(i, t, s, b, Some(uneven())),
    ];
    let step = 1e-2f32;
    for loss in losses {
        let (image, text, scale, bias) = golden(0.7, -1.0);
        let at = |i: f32, t: f32, s: f32, b: f32| {
            let along = features(TEXT);
            let image = image.clone() + along.clone() * i;
            let text = text.clone() + along.flip([1]) * t;
            host(loss((image, text, scale.clone() + s, bias.clone() + b)))[0]
        };
        let grads = loss((image.clone(), text.clone(), scale.clone(), bias.clone())).backward();
        let along = features(TEXT);
        let want = [
            host((image.grad(&grads).unwrap() * along.clone().inner()).sum())[0],
            host((text.grad(&grads).unwrap() * along.flip([1]).inner()).sum())[0],
            host(scale.grad(&grads).unwrap())[0],
            bias.grad(&grads).map_or(0.0, |g| host(g)[0]),
        ];
        for (k, want) in want.into_iter().enumerate() {
            let mut by = [0.0; 4];
            by[k] = step;
            let up = at(by[0], by[1], by[2], by[3]);
            let down = at(-by[0], -by[1], -by[2], -by[3]);
            close(&[(up - down) / (2.0 * step)], &[want], 2e-3);
        }
    }
}

#[test]
fn extremes_stay_finite() {
    let (image, text, scale, bias) = golden(60.0, -10.0);
    let nce = info_nce(image.clone(), text.clone(), scale.clone(), Some(uneven()));
    let sig = sigmoid_loss(image.clone(), text, scale.clone(), bias, None);
    for loss in [nce, sig] {
        let grads = loss.backward();
        assert!(host(loss)[0].is_finite());
        assert!(host(image.grad(&grads).unwrap()).iter().all(|g| g.is_finite()));
        assert!(host(scale.grad(&grads).unwrap())[0].is_finite());
    }
    let zero = matrix(&[[0., 0.], [3., 4.]]).require_grad();
    let unit = normalize(zero.clone());
    let grads = unit.clone().sum().backward();
    close(&host(unit), &[0., 0., 0.6, 0.8], 1e-6);
    assert!(host(zero.grad(&grads).unwrap()).iter().all(|g| g.is_finite()));
}

#[test]
fn start_and_clamp_and_names() {
    let nothing = || matrix(&[[0., 0.]; 5]);
    let nce = info_nce(nothing(), nothing(), scalar(1.0), None);
    close(&[theoretical_start(Loss::InfoNce, 5, 5)], &host(nce), 1e-6);
    let sig = sigmoid_loss(nothing(), nothing(), scalar(1.0), scalar(SIGMOID_BIAS), None);
    close(&[theoretical_start(Loss::Sigmoid, 5, 5)], &host(sig), 1e-6);
    let clamped = [-1.0, 2.0, 9.0].map(clamp_log_scale);
    close(&clamped, &[0.0, 2.0, 100f32.ln()], 1e-6);
    close(&[INFO_NCE_LOG_SCALE], &[(1.0f32 / 0.07).ln()], 1e-6);
    let name = |loss| serde_json::to_string(&loss).unwrap();
    assert_eq!([Loss::InfoNce, Loss::Sigmoid].map(name), ["\"infonce\"", "\"sigmoid\""]);
}

#[test]
#[should_panic(expected = "2 images and 3 texts need `positives`")]
fn the_diagonal_needs_a_square() {
    let text = matrix(&[[1., 0.]; 3]);
    info_nce(matrix(&[[1., 0.]; 2]), text, scalar(0.0), None);
}
