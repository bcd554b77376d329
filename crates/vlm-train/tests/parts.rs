//! The parts of the loop, each against numbers from elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use vlm_nn::{Linear, params};
use vlm_train::{
    AdamW, Average, Checkpoint, Error, Grads, OptimConfig, Optimizer, Progressed, RunDir,
    TrainConfig, check_gradients, moved_from_zero,
};

#[derive(Module, Debug)]
struct Pair {
    first: Linear,
    second: Linear,
}

fn pair(device: &Device) -> Pair {
    let linear = || Linear::new(2, 3, true, device);
    let blank = Pair { first: linear(), second: linear() };
    let filled = params::replace(blank, &mut |path, _| {
        let weight = vec![0.5f32, -1.0, 2.0, 0.25, 0.0, -3.0];
        let bias = vec![1.0f32, -1.0, 0.1];
        Ok::<_, ()>(Some(match path.ends_with("weight") {
            true => TensorData::new(weight, [2, 3]),
            false => TensorData::new(bias, [3]),
        }))
    });
    filled.unwrap()
}

fn values(model: &Pair, path: &str) -> Vec<f32> {
    params::read_one(model, path).iter().collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 2e-6, "{got} is not {want}");
    }
}

/// Gradients of the first map that are these numbers.
fn grads(model: &Pair, weight: [f32; 6], bias: [f32; 3], device: &Device) -> Grads {
    let weight = Tensor::<2>::from_data(TensorData::new(weight.to_vec(), [2, 3]), device);
    let bias = Tensor::<1>::from_data(TensorData::new(bias.to_vec(), [3]), device);
    let first = &model.first;
    let of_bias = first.bias.as_ref().unwrap().val() * bias;
    let loss = (first.weight.val() * weight).sum() + of_bias.sum();
    let mut grads = Grads::default();
    grads.add(loss.backward(), model, 1.0);
    grads
}

/// Three steps with other rates and gradients, one of them shortened to half; the numbers are
/// PyTorch's (`torch.optim.AdamW`, weight decay 0.1 on the matrix and none on the bias).
#[test]
fn adamw_steps_as_pytorch_does() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let config = OptimConfig { weight_decay: 0.1, ..OptimConfig::default() };
    assert_eq!((config.betas, config.eps), ([0.9, 0.98], 1e-6));
    let steps = [
        ([1.0, -2.0, 0.5, 0.0, 3.0, -0.1], [0.1, 0.2, -0.3], 0.1, 1.0),
        ([-0.5, 1.0, 0.25, 2.0, -3.0, 0.1], [1.0, -1.0, 0.0], 0.05, 0.5),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.01, -0.02, 5.0], 0.2, 1.0),
    ];
    for restored in [false, true] {
        let mut model = pair(&device);
        let mut rule = AdamW::new(config.clone(), &plain);
        for (done, (weight, bias, lr, shorten)) in steps.into_iter().enumerate() {
            if restored {
                let state: BTreeMap<_, _> = rule.state().into_iter().collect();
                rule = AdamW::new(config.clone(), &plain);
                rule.restore(state, done as u64).unwrap();
            }
            let mut grads = grads(&model, weight, bias, &device);
            model = rule.step(model, &mut grads, lr, shorten);
        }
        let weight =
            [0.276_715_7, -0.784_308_85, 1.616_287_6, 0.050_965_503, -0.170_616_97, -2.902_464_2];
        close(&values(&model, "first.weight"), &weight);
        close(&values(&model, "first.bias"), &[0.721_481_3, -1.004_801_8, 0.113_471_98]);
        // What has no gradient stays.
        close(&values(&model, "second.bias"), &[1.0, -1.0, 0.1]);
    }
    let mut half = AdamW::new(config, &plain);
    let state = BTreeMap::from([("x.m".to_owned(), TensorData::new(vec![0f32], [1]))]);
    assert!(half.restore(state, 1).unwrap_err().contains("second moment of `x`"));
}

#[test]
fn a_rate_of_zero_for_a_part_leaves_it() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut config = OptimConfig { weight_decay: 0.0, ..OptimConfig::default() };
    config.lr_scale.insert("first.weight".into(), 0.0);
    let model = pair(&device);
    config.check_paths(&model).unwrap();
    let mut grads = grads(&model, [1.0; 6], [1.0; 3], &device);
    let model = AdamW::new(config.clone(), &plain).step(model, &mut grads, 0.1, 1.0);
    close(&values(&model, "first.weight"), &[0.5, -1.0, 2.0, 0.25, 0.0, -3.0]);
    close(&values(&model, "first.bias"), &[0.9, -1.1, 0.0]);
    config.lr_scale.insert("frist".into(), 0.0);
    let message = config.check_paths(&model).unwrap_err().to_string();
    assert!(message.contains("`frist`") && message.contains("first, second"), "{message}");
}

#[test]
fn the_average_is_the_one_worked_by_hand() {
    let device = Device::flex();
    let model = |value: f32| {
        let fill = |_: &str, shape: &[usize]| {
            let count = shape.iter().product();
            Ok::<_, ()>(Some(TensorData::new(vec![value; count], shape.to_vec())))
        };
        params::replace(pair(&device), &mut { fill }).unwrap()
    };
    let mut average = Average::new(0.9, &device);
    average.update(&model(1.0), 1);
    // Early on the decay is (1 + step) / (10 + step): 3/12, then 0.9 as it was asked for.
    average.update(&model(3.0), 2);
    close(&values(&average.apply(model(7.0)), "second.bias"), &[2.5; 3]);
    let mut again = Average::new(0.9, &device);
    again.restore(average.state().into_iter().collect());
    for average in [&mut average, &mut again] {
        average.update(&model(10.0), 100);
        close(&values(&average.apply(model(7.0)), "first.weight"), &[3.25; 6]);
    }
}

#[test]
fn severed_and_leaking_gradients_are_found() {
    let device = Device::flex().autodiff();
    let model = pair(&device);
    let x = Tensor::<2>::ones([4, 2], &device);
    let backward = |model: &Pair, loss: Tensor<1>| {
        let mut grads = Grads::default();
        grads.add(loss.backward(), model, 1.0);
        grads
    };
    // A graph is used up by its backward pass, so each case makes its own.
    let first = || model.first.forward(x.clone());
    let both = (first() + model.second.forward(x.clone())).sum();
    let whole = backward(&model, both);
    check_gradients(&model, &whole, &|_| false).unwrap();

    let message = |model: &Pair, grads: &Grads| {
        check_gradients(model, grads, &|_| false).unwrap_err().to_string()
    };
    let severed = message(&model, &backward(&model, first().sum()));
    assert!(
        severed.contains("no gradient reaches the trainable second.weight, second.bias"),
        "{severed}"
    );
    assert!(!severed.contains("first"), "{severed}");

    // Reached, but by nothing: as good as severed.
    let dead = first().sum() + (model.second.forward(x.clone()) * 0.0).sum();
    let dead = message(&model, &backward(&model, dead));
    assert!(dead.contains("second.weight, second.bias"), "{dead}");

    let frozen = params::set_trainable(model, &|path| path.starts_with("first"));
    let leaking = message(&frozen, &whole);
    assert!(
        leaking.contains("a gradient reaches the frozen second.weight, second.bias"),
        "{leaking}"
    );
    assert!(!leaking.contains("first"), "{leaking}");
}

fn progressed(step: u64) -> Progressed {
    let config = json!({ "optim": { "lr": 1e-3 }, "seed": 1 });
    let best = Some((0.1 + 0.2, 5));
    Progressed { step, epoch: 2, batch: 3, samples: 64, best, config, frozen: u64::MAX }
}

fn write(dir: &Path, step: u64) -> PathBuf {
    let tensor =
        |name: &str, x: f32| (name.to_owned(), TensorData::new(vec![x, -x], [1, 2])).into();
    let parts =
        [vec![tensor("b", 0.1), tensor("a", f32::MIN_POSITIVE)], vec![tensor("a.m", 3.0)], vec![]];
    Checkpoint::write(dir, &progressed(step), parts).unwrap()
}

#[test]
fn a_checkpoint_comes_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), 12);
    let read = Checkpoint::read(&path).unwrap();
    assert_eq!(read.progressed, progressed(12));
    let floats = |data: &TensorData| data.iter::<f32>().collect::<Vec<_>>();
    assert_eq!(floats(&read.weights["b"]), [0.1, -0.1]);
    assert_eq!(floats(&read.weights["a"]), [f32::MIN_POSITIVE, -f32::MIN_POSITIVE]);
    assert_eq!(read.weights["a"].shape().to_vec(), [1, 2]);
    assert_eq!((read.weights.len(), read.optimizer.len(), read.average.len()), (2, 1, 0));
    // Nothing but whole checkpoints is listed, in the order of their steps.
    write(dir.path(), 100_000_000);
    write(dir.path(), 2);
    for other in [".writing-abc", "step-x", "step-00000005.old", "notes"] {
        std::fs::create_dir(dir.path().join(other)).unwrap();
    }
    let steps: Vec<u64> = Checkpoint::list(dir.path()).into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [2, 12, 100_000_000]);
}

#[test]
fn a_run_folder_is_taken_up_only_where_there_is_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("run");
    assert!(matches!(RunDir::open(&root, true), Err(Error::NothingToResume(_))));
    let run = RunDir::open(&root, false).unwrap();
    assert!(matches!(RunDir::open(&root, false), Err(Error::Occupied(_))));
    assert!(RunDir::open(&root, true).unwrap().latest().is_none(), "killed before a checkpoint");
    for step in 1..=4 {
        write(&run.checkpoints(), step);
    }
    run.prune(3);
    assert_eq!(Checkpoint::list(&run.checkpoints()).len(), 3);
    assert_eq!(run.latest().unwrap(), run.checkpoints().join("step-00000004"));

    run.accepts(&progressed(4).config).unwrap();
    let other = json!({ "optim": { "lr": 1e-3, "clip": 1 }, "seed": 1 });
    let message = run.accepts(&other).unwrap_err().to_string();
    assert!(
        message.contains("step-00000004: ") && message.contains("optim.clip was null and is 1")
    );

    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("thesis.old"), "").unwrap();
    assert!(matches!(RunDir::open(full.path(), false), Err(Error::NotEmpty(_))));
    assert!(matches!(RunDir::open(full.path(), true), Err(Error::NothingToResume(_))));
    let file = full.path().join("thesis.old");
    assert!(matches!(RunDir::open(&file, false), Err(Error::NotAFolder(_))));
}

#[test]
fn a_schedule_counts_the_steps() {
    let config = TrainConfig { epochs: 3, accumulate: 2, warmup: 0.5, ..TrainConfig::default() };
    let schedule = config.schedule(0.1, 5).unwrap();
    assert_eq!((schedule.total_steps, schedule.warmup_steps, schedule.peak), (7, 4, 0.1));
    // Even a single step gets past its warm-up.
    let short = TrainConfig { epochs: 1, warmup: 0.9, ..TrainConfig::default() };
    assert_eq!(short.schedule(0.1, 1).unwrap().warmup_steps, 0);
    for (config, batches) in [
        (TrainConfig { epochs: 1, accumulate: 6, ..config.clone() }, 5),
        (TrainConfig { epochs: u64::MAX / 2, ..config.clone() }, 2),
        (TrainConfig { epochs: 0, ..config.clone() }, 5),
        (config, 0),
    ] {
        let message = config.schedule(0.1, batches).unwrap_err().to_string();
        assert!(message.starts_with("train.epochs") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_gate_that_is_closed_severs_nothing() {
    let device = Device::flex().autodiff();
    // The first map stands behind the second's weight, which is 0.
    let closed = params::replace(pair(&device), &mut |path, shape| {
        let zero = || TensorData::full(shape.to_vec(), 0f32);
        Ok::<_, ()>((path == "second.weight").then(zero))
    });
    let closed = closed.unwrap();
    let gated = |model: &Pair, severed: bool| {
        let x = Tensor::<2>::ones([4, 2], &device);
        let first = model.first.forward(x.clone());
        let first = if severed { first.detach() } else { first };
        let gate = x.matmul(model.second.weight.val());
        let bias = model.second.bias.as_ref().unwrap().val().sum();
        let mut grads = Grads::default();
        grads.add(((first * gate).sum() + bias).backward(), model, 1.0);
        check_gradients(model, &grads, &|_| false)
    };
    let severed = gated(&closed, false).unwrap_err().to_string();
    assert!(severed.contains("first.weight"), "{severed}");
    let moved = moved_from_zero(&closed).unwrap();
    assert!(gated(&moved, false).is_ok());
    assert!(gated(&moved, true).is_err());
    assert_eq!(values(&closed, "second.weight"), [0.0; 6]);
    assert!(moved_from_zero(&moved).is_none());
}
