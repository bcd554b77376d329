//! What each method must be able to do, and what none may look at.

use burn::tensor::{Device, Tensor};

use super::fixture::{Normal, accuracy, labelled, matrix, problem};
use super::problem::host;
use super::*;
use crate::loss::normalize;
use vlm_train::Vectors;

/// Two arcs that bend into each other: near neighbours are of one class, and straight lines between
/// the classes cut through both. The plane they lie in is bent into many dimensions, where a cosine
/// falls with the distance.
fn arcs(class: usize, random: &mut Normal) -> Vec<Vec<f32>> {
    let t = random.index(1000) as f32 / 1000.0 * std::f32::consts::PI;
    let (x, y) = match class {
        0 => (t.cos(), t.sin()),
        _ => (1.0 - t.cos(), 0.5 - t.sin()),
    };
    let (x, y) = (x + 0.04 * random.next(), y + 0.04 * random.next());
    let waves = &mut Normal::new(99);
    let mut wave = || 2.5 * (waves.next() * x + waves.next() * y) + 3.0 * waves.next();
    vec![(0..64).map(|_| wave().cos()).collect()]
}

#[test]
fn labels_spread_along_arcs() {
    let (mut few, truth) = problem([2, 4, 150, 100], 2, 3, &mut arcs);
    let propagation = LabelPropagation::default();
    let (probe, with) =
        (accuracy(&LinearProbe, &few, &truth), accuracy(&propagation, &few, &truth));
    few.pool = None;
    let without = accuracy(&propagation, &few, &truth);
    assert!(
        with > 0.95 && with > probe + 0.08 && with > without + 0.08,
        "{with} {probe} {without}"
    );
}

/// Queries are learnt from where that is asked for, and nowhere else.
#[test]
fn queries_are_learnt_from_only_when_asked() {
    let (mut few, truth) = problem([2, 4, 0, 150], 2, 3, &mut arcs);
    let propagation = LabelPropagation::default();
    let alone = host(propagation.fit(&few).unwrap().scores);
    // One query more or less changes nothing for the others.
    let all = few.queries.clone();
    few.queries = all.clone().narrow(0, 0, 60);
    assert_eq!(host(propagation.fit(&few).unwrap().scores), alone[..120]);
    few.queries = all;
    let before = accuracy(&propagation, &few, &truth);
    few.transductive = true;
    let after = accuracy(&propagation, &few, &truth);
    assert!(after > before + 0.05, "{before} {after}");
}

/// Many dimensions of noise, a few of signal.
fn noisy(class: usize, random: &mut Normal) -> Vec<Vec<f32>> {
    let point: Vec<f32> =
        (0..24).map(|i| random.next() * 0.6 + if i == class { 1.5 } else { 0.0 }).collect();
    vec![point]
}

#[test]
fn the_text_prior_helps_where_labels_are_few() {
    let (mut few, truth) = problem([1, 4, 0, 80], 6, 5, &mut noisy);
    // Texts that know the classes, though not perfectly.
    let mut random = Normal::new(8);
    let texts: Vec<Vec<f32>> = (0..6)
        .map(|class| {
            (0..24).map(|i| random.next() * 0.35 + if i == class { 1.0 } else { 0.0 }).collect()
        })
        .collect();
    let cache = accuracy(&TipAdapter, &few, &truth);
    few.text = Some(Text { weights: normalize(matrix(&texts)), scale: 10.0 });
    let probe = accuracy(&LinearProbe, &few, &truth);
    let zero_shot = accuracy(&problem::ZeroShot, &few, &truth);
    let tip = accuracy(&TipAdapter, &few, &truth);
    let tuned = accuracy(&TipAdapterF::default(), &few, &truth);
    assert!(
        tip > probe + 0.1 && tip >= zero_shot && tip > cache,
        "{tip} {probe} {zero_shot} {cache}"
    );
    assert!(tuned > probe + 0.1, "{tuned} {probe}");
    // With more labels the adapters must leave the texts behind.
    let (mut more, truth) = problem([16, 4, 0, 80], 6, 5, &mut noisy);
    more.text = few.text.clone();
    let zero_shot = accuracy(&problem::ZeroShot, &more, &truth);
    for method in [&TipAdapterF::default() as &dyn Method, &ClipAdapter::default()] {
        let found = accuracy(method, &more, &truth);
        assert!(found > zero_shot, "{} {found} {zero_shot}", method.name());
    }
}

/// The class lies in four values; twenty more change from view to view, and a linear classifier
/// takes them for a mark of the few labelled pictures.
fn changing(class: usize, random: &mut Normal) -> Vec<Vec<f32>> {
    let own: Vec<f32> =
        (0..4).map(|i| random.next() * 0.25 + if i == class { 0.9 } else { 0.0 }).collect();
    (0..3)
        .map(|_| own.iter().copied().chain((0..20).map(|_| random.next() * 0.5)).collect())
        .collect()
}

#[test]
fn pictures_without_labels_show_what_does_not_matter() {
    let (mut few, truth) = problem([2, 4, 200, 150], 4, 2, &mut changing);
    let probe = accuracy(&LinearProbe, &few, &truth);
    for method in [&FixMatch::default() as &dyn Method, &SupCon::default()] {
        let with = accuracy(method, &few, &truth);
        let pool = few.pool.take();
        let without = accuracy(method, &few, &truth);
        few.pool = pool;
        let name = method.name();
        assert!(with > probe + 0.05 && with > without + 0.02, "{name} {with} {without} {probe}");
    }
}

#[test]
fn every_method_learns_from_many_labels() {
    let (mut many, truth) = problem([16, 4, 40, 60], 4, 2, &mut changing);
    let own = |class: usize| (0..24).map(|i| f32::from(u8::from(i == class))).collect();
    let texts = matrix(&(0..4).map(own).collect::<Vec<Vec<f32>>>());
    many.text = Some(Text { weights: texts, scale: 10.0 });
    for method in all() {
        if !method.needs_prompts() && method.name() != "zero-shot" {
            let found = accuracy(method.as_ref(), &many, &truth);
            assert!(found > 0.7, "{} {found}", method.name());
        }
    }
    // The settings of the papers, where there is nothing to choose them on.
    many.validation = None;
    for method in all() {
        if !method.needs_prompts() && method.name() != "zero-shot" {
            let found = accuracy(method.as_ref(), &many, &truth);
            assert!(found > 0.6, "{} {found}", method.name());
        }
    }
}

#[test]
fn methods_that_compare_with_texts_refuse_a_model_without() {
    let (few, _) = problem([1, 1, 0, 2], 2, 1, &mut noisy);
    for method in all().iter().filter(|method| method.needs_text()) {
        let message = method.fit(&few).unwrap_err().to_string();
        assert!(message.starts_with(method.name()) && message.contains("--methods"), "{message}");
    }
}

/// Labels of test pictures have no way into a method: whatever they are, it says the same.
#[test]
fn answers_of_the_test_never_reach_a_method() {
    let random = &mut Normal::new(4);
    let train = labelled(30, 3, random, &mut changing);
    let test = labelled(20, 3, random, &mut changing);
    let vectors = |x: &Tensor<2>| Vectors { values: host(x.clone()), width: x.dims()[1] };
    let views: Vec<Vectors> =
        std::iter::once(&train.features).chain(&train.views).map(vectors).collect();
    let classes = ["a", "b", "c"].map(str::to_owned);
    let device = Device::flex();
    let pictures: Vec<usize> = (0..train.len()).collect();
    let seen = vectors(&test.features);
    let text = matrix(&(0..3).map(|c| noisy(c, random).remove(0)).collect::<Vec<_>>());
    let methods: Vec<Box<dyn Method>> = all().into_iter().filter(|m| !m.needs_prompts()).collect();
    let runs = |answers: &[usize]| {
        let material = Material {
            draws: Draws {
                truth: &train.labels,
                classes: &classes,
                validation: None,
                unlabelled: 40,
            },
            pictures: &pictures,
            train: &views,
            test: &seen,
            answers,
            text: Some(Text { weights: normalize(text.clone()), scale: 10.0 }),
            prompts: None,
            transductive: false,
            device: &device,
        };
        run(&material, &methods, &[1, 2], 2, &mut |_, _, _| {}).unwrap()
    };
    // A class as the answer for all counts how often each class is said: the three sum to 1, if
    // the same is said each time.
    let said = [0, 1, 2].map(|class| runs(&vec![class; test.len()]));
    let truth = runs(&test.labels);
    for (i, cell) in truth.iter().enumerate() {
        for seed in 0..2 {
            let sum: f64 = said.iter().map(|cells| cells[i].accuracies[seed]).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{}: {sum}", cell.method);
        }
        assert!(said.iter().all(|cells| cells[i].chosen == cell.chosen), "{}", cell.method);
        assert_eq!(cell.accuracies.len(), 2);
    }
    assert!(truth.iter().filter(|cell| cell.unlabelled).count() == 6);
}

/// A text tower that lets through what its context asks for.
struct Gate {
    names: Tensor<2>,
}

impl Prompts for Gate {
    fn device(&self) -> Device {
        self.names.device()
    }

    fn look_up(&self, words: &str) -> Result<Tensor<2>, crate::Error> {
        Ok(Tensor::zeros([words.split(' ').count(), 24], &self.device()))
    }

    fn encode(&self, context: Tensor<3>) -> Tensor<2> {
        let [copies, _, width] = context.dims();
        let context = context.mean_dim(1).reshape([copies, width]);
        normalize(self.names.clone() * (context.expand(self.names.dims()) + 1.0))
    }
}

/// The names say much that is in no picture; a context can learn to ask for the rest.
#[test]
fn a_learned_context_asks_for_what_matters() {
    let (mut few, truth) = problem([8, 4, 0, 60], 6, 5, &mut noisy);
    let random = &mut Normal::new(3);
    let mut name = |class: usize| -> Vec<f32> {
        let noise = |i: usize, x: f32| if i < 6 { 0.0 } else { 0.8 * x };
        (0..24).map(|i| noise(i, random.next()) + f32::from(u8::from(i == class))).collect()
    };
    let names = matrix(&(0..6).map(&mut name).collect::<Vec<_>>());
    let gate = Gate { names: Tensor::from_inner(names.clone()) };
    few.text = Some(Text { weights: normalize(names), scale: 20.0 });
    few.prompts = Some(&gate);
    let zero_shot = accuracy(&problem::ZeroShot, &few, &truth);
    let learned = [
        CoOp { lr: 0.1, ..CoOp::default() },
        CoOp { lr: 0.1, per_class: true, start: Start::Random(16), ..CoOp::default() },
    ];
    for method in learned {
        let found = accuracy(&method, &few, &truth);
        assert!(found > zero_shot + 0.05, "{method:?}: {found} {zero_shot}");
    }
}
