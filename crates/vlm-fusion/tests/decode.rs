//! A text that is read piece by piece says what it says when it is read at once; prompts in a batch
//! are answered as each alone; and what a token may not see changes nothing.

mod common;

use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{CONTEXT, VOCABULARY, distance, host, llama, tokens, towers};
use vlm_encoders::TextTower;
use vlm_fusion::Error;
use vlm_fusion::decode::{Generation, Prompt, Reason, Sampling, generate, go_on};
use vlm_nn::ops::MASKED;
use vlm_nn::{Cache, Pass};

fn rows(tower: &TextTower, ids: &[i64]) -> Tensor<3> {
    let ids = TensorData::new(ids.to_vec(), [1, ids.len()]);
    tower.look_up(Tensor::<2, Int>::from_data(ids, &Device::default()))
}

fn say(tower: &TextTower, prompts: &[Vec<i64>], sampling: &Sampling) -> Vec<Generation> {
    let prompt = Prompt::of_ids(tower, prompts.to_vec()).unwrap();
    generate(tower, &prompt, sampling, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_text_in_pieces_is_the_text_at_once() {
    let ids = tokens(40, 1);
    for (name, tower) in towers() {
        let whole = rows(&tower, &ids);
        let (logits, width) = (host(tower.logits(whole.clone())), whole.dims()[2]);
        assert_eq!(logits.len(), 40 * VOCABULARY);
        // The path that training and embedding take, which has no cache.
        let want = host(tower.states_of_rows(whole.clone(), None, None, false).last);
        let mut cache = Cache::new();
        let (mut got, mut from) = (Vec::new(), 0);
        for step in [7, 1, 1, 3, 1].into_iter().chain(std::iter::repeat_n(1, 27)) {
            let part = whole.clone().narrow(1, from, step);
            got.extend(host(tower.extend(part, &mut Pass::new().with_cache(&mut cache))));
            from += step;
        }
        assert_eq!((from, cache.tokens(), cache.batch()), (40, 40, 1), "{name}");
        for (place, (got, want)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
            let distance = distance(got, want);
            assert!(distance < 2e-5, "{name}: token {place} is off by {distance}");
        }
    }
}

#[test]
fn a_cache_takes_back_and_grows() {
    let (tower, ids) = (llama(), tokens(600, 2));
    let mut cache = Cache::new();
    let read = |from: usize, to: usize, cache: &mut Cache| {
        host(tower.extend(rows(&tower, &ids[from..to]), &mut Pass::new().with_cache(cache)))
    };
    let first = read(0, 600, &mut cache);
    cache.truncate(300);
    let again = read(300, 600, &mut cache);
    assert!(distance(&first[300 * 48..], &again) < 2e-5);
    // Keys and values of 3 layers, 2 heads of 8 values, with at most 256 places to spare.
    assert!(cache.bytes() < 2 * 3 * 16 * 4 * (600 + 256), "{}", cache.bytes());
}

#[test]
fn greedy_answers_need_no_cache() {
    for (name, tower) in towers() {
        // Random weights like to say one thing for ever, which the penalty forbids.
        let cached = Sampling { max_tokens: 64, repetition_penalty: 1.4, ..Sampling::default() };
        let prompts = [tokens(9, 3)];
        let answers = say(&tower, &prompts, &cached);
        assert_eq!((answers[0].ids.len(), answers[0].reason), (64, Reason::Length), "{name}");
        let kinds: std::collections::BTreeSet<_> = answers[0].ids.iter().collect();
        assert!(kinds.len() > 8, "{name}: {:?} would show little", answers[0].ids);
        assert_eq!(answers, say(&tower, &prompts, &Sampling { cached: false, ..cached }), "{name}");
    }
}

#[test]
fn a_batch_answers_as_each_alone() {
    let prompts = [tokens(3, 4), tokens(17, 5), tokens(9, 6), tokens(1, 7)];
    for (name, tower) in towers() {
        for temperature in [0.0, 0.8] {
            let sampling = Sampling {
                max_tokens: 40,
                temperature,
                top_p: Some(0.9),
                repetition_penalty: 1.1,
                seed: 3,
                // Some end early, and the others go on.
                eos: vec![5, 31],
                ..Sampling::default()
            };
            let together = say(&tower, &prompts, &sampling);
            for (i, prompt) in prompts.iter().enumerate() {
                let mut alone = Prompt::of_ids(&tower, vec![prompt.clone()]).unwrap();
                alone.streams = vec![i as u64];
                let on = &mut |_, _| ControlFlow::Continue(());
                let alone = generate(&tower, &alone, &sampling, on).unwrap();
                assert_eq!(together[i], alone[0], "{name}, temperature {temperature}, prompt {i}");
            }
        }
    }
}

/// States of a prompt whose first tokens see each other both ways.
fn prefix_states(tower: &TextTower, ids: &[i64], prefix: usize) -> Vec<f32> {
    let mut prompt = Prompt::of_ids(tower, vec![ids.to_vec()]).unwrap();
    prompt.prefix = Some(vec![prefix]);
    host(tower.extend(prompt.rows.clone(), &mut prompt.pass(0, ids.len(), CONTEXT)))
}

#[test]
fn a_prefix_sees_itself_both_ways_and_nothing_later() {
    let (tower, prefix) = (llama(), 6);
    let ids = tokens(10, 8);
    let before = prefix_states(&tower, &ids, prefix);
    let with = |place: usize| {
        let mut ids = ids.clone();
        ids[place] = (ids[place] + 1) % VOCABULARY as i64;
        prefix_states(&tower, &ids, prefix)
    };
    let changed =
        |after: &[f32], token: usize| before[token * 48..][..48] != after[token * 48..][..48];
    // A token after the prefix changes itself and what follows.
    let after = with(7);
    for token in 0..10 {
        assert_eq!(changed(&after, token), token >= 7, "token {token}");
    }
    // The last of the prefix changes all.
    let after = with(5);
    assert!((0..10).all(|token| changed(&after, token)));
}

#[test]
fn prefixes_of_a_padded_batch_are_those_of_each_alone() {
    let tower = llama();
    let prompts = [tokens(4, 9), tokens(12, 10)];
    let sampling = Sampling { max_tokens: 24, ..Sampling::default() };
    let answer = |prompts: &[Vec<i64>], prefix: Vec<usize>, cached: bool| {
        let mut prompt = Prompt::of_ids(&tower, prompts.to_vec()).unwrap();
        prompt.prefix = Some(prefix);
        let sampling = Sampling { cached, ..sampling.clone() };
        generate(&tower, &prompt, &sampling, &mut |_, _| ControlFlow::Continue(())).unwrap()
    };
    let together = answer(&prompts, vec![3, 12], true);
    assert_eq!(together, answer(&prompts, vec![3, 12], false));
    assert_eq!(together[0], answer(&prompts[..1], vec![3], true)[0]);
    assert_eq!(together[1], answer(&prompts[1..], vec![12], true)[0]);
    assert_ne!(together[1], answer(&prompts[1..], vec![0], true)[0]);
}

#[test]
fn padding_is_not_seen() {
    let tower = llama();
    let mut prompt = Prompt::of_ids(&tower, vec![tokens(4, 11), tokens(9, 12)]).unwrap();
    let states =
        |prompt: &Prompt| host(tower.extend(prompt.rows.clone(), &mut prompt.pass(0, 9, CONTEXT)));
    let before = states(&prompt);
    let noise = Tensor::ones([1, 5, 48], &Device::default()) * 3.0;
    prompt.rows = prompt.rows.slice_assign([0..1, 0..5, 0..48], noise);
    let after = states(&prompt);
    assert_ne!(before[..5 * 48], after[..5 * 48]);
    assert_eq!(before[5 * 48..], after[5 * 48..]);
}

/// Two questions about the same beginning, in one row: each goes on from its end and sees nothing
/// of the other.
#[test]
fn questions_packed_into_a_row_are_answered_as_each_alone() {
    let (start, one, two) = (tokens(6, 13), tokens(4, 14), tokens(5, 15));
    for (name, tower) in towers() {
        let alone = |question: &[i64]| {
            let ids = [&start[..], question].concat();
            host(tower.states_of_rows(rows(&tower, &ids), None, None, false).last)
        };
        let (first, second) = (alone(&one), alone(&two));
        let ids = [&start[..], &one, &two].concat();
        let seen =
            |query: usize, key: usize| key <= query && !(query >= 10 && (6..10).contains(&key));
        let mask: Vec<f32> =
            (0..15 * 15).map(|i| if seen(i / 15, i % 15) { 0.0 } else { MASKED }).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [1, 15, 15]), &Device::default());
        let positions = (0..10).chain(6..11).collect();
        let mut pass = Pass::new().with_mask(Some(mask)).with_positions(vec![positions]).open();
        let packed = host(tower.extend(rows(&tower, &ids), &mut pass));
        assert!(distance(&packed[..10 * 48], &first) < 2e-5, "{name}");
        assert!(distance(&packed[10 * 48..], &second[6 * 48..]) < 2e-5, "{name}");
    }
}

#[test]
fn an_answer_goes_on_from_a_cache() {
    let tower = llama();
    let sampling = Sampling { max_tokens: 12, repetition_penalty: 1.3, ..Sampling::default() };
    let on = &mut |_, _| ControlFlow::Continue(());
    let mut cache = Cache::new();
    let prompt = Prompt::of_ids(&tower, vec![tokens(8, 16)]).unwrap();
    let first = go_on(&tower, &mut cache, &prompt, &sampling, on).unwrap();
    let said = [tokens(8, 16), first[0].ids.clone(), tokens(3, 17)].concat();
    // The last token of an answer has been said, and not read.
    assert_eq!(cache.tokens(), 8 + 11);
    let mut next = Prompt::of_ids(&tower, vec![said[cache.tokens()..].to_vec()]).unwrap();
    next.ids = vec![said.clone()];
    let second = go_on(&tower, &mut cache, &next, &sampling, on).unwrap();
    assert_eq!(second, say(&tower, &[said], &sampling));
}

#[test]
fn answers_end() {
    let tower = llama();
    let sampling = Sampling { max_tokens: 20, ..Sampling::default() };
    let all = say(&tower, &[tokens(8, 18)], &sampling)[0].ids.clone();
    // At a token that ends it, which may be the first: an empty answer is one.
    let ended =
        |eos| say(&tower, &[tokens(8, 18)], &Sampling { eos, ..sampling.clone() })[0].clone();
    assert_eq!(ended(vec![all[0]]), Generation { ids: vec![all[0]], reason: Reason::End });
    assert_eq!(ended(vec![VOCABULARY as i64]).reason, Reason::Length);
    // When whoever listens breaks it off.
    let prompt = Prompt::of_ids(&tower, vec![tokens(8, 18)]).unwrap();
    let mut heard = Vec::new();
    let on = &mut |row, id| {
        heard.push((row, id));
        if heard.len() < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let stopped = generate(&tower, &prompt, &sampling, on).unwrap();
    assert_eq!(stopped[0], Generation { ids: all[..5].to_vec(), reason: Reason::Stopped });
    assert_eq!(heard, all[..5].iter().map(|id| (0, *id)).collect::<Vec<_>>());
    // When the context is full; the last token needs no place.
    for (_, tower) in towers() {
        let prompts = [tokens(CONTEXT - 3, 19), tokens(2, 20)];
        let full = say(&tower, &prompts, &sampling);
        assert_eq!((full[0].ids.len(), full[0].reason), (4, Reason::Context));
        assert_eq!((full[1].ids.len(), full[1].reason), (20, Reason::Length));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let tower = llama();
    let on = &mut |_, _| ControlFlow::Continue(());
    let prompt = Prompt::of_ids(&tower, vec![tokens(CONTEXT + 1, 21)]).unwrap();
    let refused = generate(&tower, &prompt, &Sampling::default(), on).unwrap_err().to_string();
    assert!(refused.contains("129 tokens") && refused.contains("takes 128"), "{refused}");
    let empty = Prompt::of_ids(&tower, vec![vec![1], vec![]]).unwrap_err();
    assert!(matches!(empty, Error::EmptyPrompt { row: 1 }), "{empty}");
    let unknown = Prompt::of_ids(&tower, vec![vec![97]]).unwrap_err();
    assert!(matches!(unknown, Error::UnknownToken { id: 97, .. }), "{unknown}");
    let rows = vec![Tensor::zeros([3, 48], &Device::default())];
    let other = Prompt::of_rows(rows, vec![vec![1, 2]]).unwrap_err();
    assert!(matches!(other, Error::PromptRows { row: 0, ids: 2, rows: 3 }), "{other}");
    let prompt = Prompt::of_ids(&tower, vec![vec![1]]).unwrap();
    let default = Sampling::default;
    for bad in [
        Sampling { max_tokens: 0, ..default() },
        Sampling { temperature: -1.0, ..default() },
        Sampling { temperature: f64::NAN, ..default() },
        Sampling { top_k: Some(0), ..default() },
        Sampling { top_p: Some(1.5), ..default() },
        Sampling { repetition_penalty: 0.0, ..default() },
    ] {
        let refused = generate(&tower, &prompt, &bad, on).unwrap_err();
        assert!(matches!(refused, Error::Setting { .. }), "{refused}");
    }
    // Weights that are no numbers.
    let broken =
        Prompt::of_rows(vec![Tensor::full([1, 48], f32::NAN, &Device::default())], vec![vec![1]]);
    let refused = generate(&tower, &broken.unwrap(), &default(), on).unwrap_err();
    assert!(matches!(refused, Error::NotANumber { tokens: 1 }), "{refused}");
}
