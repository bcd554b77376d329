//! Adapters in place of the model of a training task.
#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::{Linear, params};
use vlm_peft::{
    Adapted, AnyMethod, Base, DyLora, Lora, LoraFa, LoraPlus, Targets, attach, load, own_names,
};
use vlm_train::{
    ADAPTER, AdamW, BoxError, Grads, OptimConfig, Optimizer, StepReport, Task, Validation,
};

/// `((i a + o) mod m − m / 2) / 16`.
fn grid<const D: usize>(shape: [usize; D], [a, m, o]: [usize; 3]) -> TensorData {
    let value = |i: usize| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0;
    TensorData::new((0..shape.iter().product()).map(value).collect::<Vec<f32>>(), shape)
}

/// Rows and columns change places.
fn turned(data: &TensorData) -> TensorData {
    Tensor::<2>::from_data(data.clone(), &Device::flex()).transpose().into_data()
}

#[derive(Module, Debug)]
struct Model {
    map: Linear,
}

/// Half the sum of squares of what a linear map makes of two rows.
struct Half;

impl Task for Half {
    type Model = Model;
    type Batch = ();

    fn batches_per_epoch(&self) -> usize {
        1
    }

    fn batches(
        &self,
        _: u64,
        _: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<(), BoxError>> + '_>, BoxError> {
        Ok(Box::new(std::iter::once(Ok(()))))
    }

    fn gradients(
        &self,
        model: &Model,
        (): (),
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        let x = Tensor::<2>::from_data(grid([2, 4], [11, 29, 4]), &model.map.weight.lazy_device());
        let y = model.map.forward(x);
        grads.add((y.clone() * y * 0.5).sum().backward(), model, weight);
        Ok(StepReport::default())
    }

    fn validate(&self, _: &Model) -> Result<Validation, BoxError> {
        Ok(Validation::default())
    }

    fn save_model(&self, _: &Model, _: &Path) -> Result<(), BoxError> {
        unreachable!("the adapter is what is saved")
    }
}

/// A map of four values to three, with the adapter's factors away from their start.
fn begun(method: &AnyMethod) -> (Model, vlm_peft::Adapter) {
    let model = Model { map: Linear::new(4, 3, true, &Device::flex().autodiff()) };
    let (model, adapter) =
        attach(model, "default", method, Some(&Targets::all()), &own_names, 1).unwrap();
    let model = params::replace(model, &mut |path, _| {
        Ok::<_, BoxError>(Some(match path.rsplit('.').next() {
            Some("a") => turned(&grid([2, 4], [5, 13, 3])),
            Some("b") => turned(&grid([3, 2], [3, 7, 1])),
            Some("bias") => grid([3], [5, 11, 2]),
            _ => turned(&grid([3, 4], [7, 23, 5])),
        }))
    });
    (model.unwrap(), adapter)
}

fn of(path_end: &str, model: &Model) -> Vec<f32> {
    let path = params::list(model).into_iter().find(|p| p.path.ends_with(path_end)).unwrap().path;
    params::read_one(model, &path).iter().collect()
}

fn lora() -> Lora {
    Lora { r: 2, alpha: 4.0, ..Default::default() }
}

#[test]
fn lora_fa_moves_the_second_factor_as_its_formula_says() {
    let (mut model, adapter) = begun(&AnyMethod::LoraFa(LoraFa { lora: lora() }));
    let first = of(".a", &model);
    let task = Adapted::new(&Half, adapter, Base::default(), 1);
    // By an independent NumPy in 64 bits; rows of three outputs by two ranks. Like peft's optimiser it
    // adds ε to the root before its bias is corrected, PyTorch's AdamW and ours after.
    let rule_of = |step: u64| {
        let eps = 1e-6 / (1.0 - 0.999f64.powi(step as i32 + 1)).sqrt();
        let config =
            OptimConfig { betas: [0.9, 0.999], eps, weight_decay: 0.0, ..Default::default() };
        AdamW::new(config, &Device::flex())
    };
    let mut state = BTreeMap::new();
    let steps = [
        [-0.0250043, 0.1624973, -0.2874692, 0.0998808, 0.0875077, 0.0374783],
        [0.0744188, 0.2619574, -0.3861536, 0.0406183, -0.0126109, 0.0999105],
    ];
    for (step, theirs) in steps.into_iter().enumerate() {
        let mut rule = rule_of(step as u64);
        rule.restore(state, step as u64).unwrap();
        let mut grads = Grads::default();
        task.before_step(step as u64);
        task.gradients(&model, (), 1.0, &mut grads).unwrap();
        task.shape_gradients(&model, &mut grads).unwrap();
        model = rule.step(model, &mut grads, 0.1, 1.0);
        state = rule.state().into_iter().collect();
        let ours = of(".b", &model);
        for (i, theirs) in theirs.into_iter().enumerate() {
            let ours = ours[i % 2 * 3 + i / 2];
            assert!((ours - theirs).abs() < 5e-6, "step {step}, {i}: {ours} {theirs}");
        }
    }
    assert_eq!(of(".a", &model), first);
}

#[test]
fn dylora_draws_a_rank_for_each_step_and_is_measured_with_all() {
    let method = DyLora { lora: Lora { r: 2, ..lora() }, ..Default::default() };
    let (model, adapter) = begun(&AnyMethod::Dylora(method.clone()));
    let drawn: Vec<usize> = (0..64).map(|step| method.rank_at(1, step)).collect();
    assert!(drawn.iter().all(|rank| (1..=2).contains(rank)));
    let ones = drawn.iter().filter(|rank| **rank == 1).count();
    assert!((16..=48).contains(&ones), "{ones} of 64");
    let task = Adapted::new(&Half, adapter, Base::default(), 1);
    let x = Tensor::<2>::from_data(grid([2, 4], [11, 29, 4]), &model.map.weight.lazy_device());
    let said =
        |model: &Model| -> Vec<f32> { model.map.forward(x.clone()).into_data().iter().collect() };
    let all = said(&model);
    let step = drawn.iter().position(|rank| *rank == 1).unwrap();
    task.before_step(step as u64);
    let one = said(&model);
    assert!(one != all);
    // Of rank one, the golden values of methods.md 14.1.
    let theirs = [0.6796875, -0.1113281, -0.7441406, -0.625, -0.1152344, -0.7324219];
    assert!(one.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-6), "{one:?}");
    task.validate(&model).unwrap();
    assert_eq!(said(&model), all);
}

#[test]
fn what_is_saved_is_the_adapter_and_can_be_loaded() {
    let (model, adapter) = begun(&AnyMethod::Lora(lora()));
    let task = Adapted::new(&Half, adapter, Base::default(), 1);
    assert_eq!(task.saved_as(), ADAPTER);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("adapter");
    task.save_model(&model, &dir).unwrap();
    let plain = vlm_peft::detach(model.clone(), "default").unwrap();
    let names = |path: &str, _: usize| Some(format!("top.{path}"));
    assert!(load(plain, "again", &dir, &names, &Device::flex().autodiff()).is_err());
    let again = vlm_peft::detach(model.clone(), "default").unwrap();
    let (again, _) = load(again, "again", &dir, &own_names, &Device::flex().autodiff()).unwrap();
    assert_eq!(of(".a", &again), of(".a", &model));
}

#[test]
fn the_second_factor_of_lora_plus_learns_faster() {
    let plus = LoraPlus { ratio: 16.0, lora: lora() };
    let (model, adapter) = begun(&AnyMethod::LoraPlus(plus));
    let rates = adapter.rates(&model);
    assert_eq!(rates.len(), 1);
    assert!(rates[0].0.ends_with(".b") && rates[0].1 == 16.0, "{rates:?}");
}
