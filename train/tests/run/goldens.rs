//! kNN and linear probe against numpy (`goldens/eval.py`).

use lgd_train::eval::{KnnSettings, Matrix, ProbeSettings, linear_probe, nearest_neighbors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    width: usize,
    train: Vec<f32>,
    labels: Vec<u32>,
    test: Vec<f32>,
    truth: Vec<u32>,
    knn: Vec<Knn>,
    probes: Vec<Probe>,
}

#[derive(Deserialize)]
struct Knn {
    k: usize,
    temperature: f32,
    predicted: Vec<u32>,
}

#[derive(Deserialize)]
struct Probe {
    rate: f32,
    l2: f32,
    epochs: u32,
    batch: usize,
    momentum: f32,
    deviation: f64,
    seed: u64,
    predicted: Vec<u32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn golden() -> (Golden, Matrix, Matrix) {
    let golden: Golden = serde_json::from_str(include_str!("../goldens/eval.json")).unwrap();
    let train = Matrix::new(golden.width, golden.train.clone());
    let test = Matrix::new(golden.width, golden.test.clone());
    (golden, train, test)
}

#[test]
fn neighbors_vote_as_in_numpy() {
    let (golden, train, test) = golden();
    for Knn { k, temperature, predicted } in golden.knn {
        let settings = KnnSettings { neighbors: k, temperature };
        let got = nearest_neighbors((&train, &golden.labels), &test, settings).unwrap();
        assert_eq!(got, predicted, "k {k}, temperature {temperature}");
    }
}

#[test]
fn a_probe_is_the_one_trained_in_numpy() {
    let (golden, train, test) = golden();
    assert_eq!(golden.probes.iter().map(|probe| probe.l2).collect::<Vec<_>>(), [0.0, 0.01]);
    for Probe { rate, l2, epochs, batch, momentum, deviation, seed, predicted, weight, bias } in golden.probes
    {
        let (learning_rates, l2s) = (vec![rate], vec![l2]);
        let settings = ProbeSettings { epochs, batch, momentum, deviation, learning_rates, l2: l2s, seed };
        let probe = linear_probe((&train, &golden.labels), 1.0, &settings).unwrap();
        assert_eq!((probe.labels, probe.l2), (golden.labels.len(), l2));
        assert_eq!(probe.classify(&test).unwrap(), predicted);
        for (got, expected) in [(probe.weights().0, weight), (probe.weights().1, bias)] {
            let largest = expected.iter().map(|value| value.abs()).fold(0.0, f32::max);
            let far = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(got.len(), expected.len());
            assert!(far < 1e-4 * largest, "off by {far} of {largest}");
        }
    }
}

#[test]
fn labels_may_be_any_numbers() {
    let (golden, train, test) = golden();
    let far = |labels: &[u32]| labels.iter().map(|label| 7 + 1_000_000_000 * label).collect::<Vec<_>>();
    let Knn { k, temperature, predicted } = &golden.knn[1];
    let settings = KnnSettings { neighbors: *k, temperature: *temperature };
    let got = nearest_neighbors((&train, &far(&golden.labels)), &test, settings).unwrap();
    assert_eq!(got, far(predicted));
    // All labels are given, because a subset would be drawn differently.
    let settings = ProbeSettings { epochs: 20, ..ProbeSettings::default() };
    let near = linear_probe((&train, &golden.labels), 1.0, &settings).unwrap();
    let probe = linear_probe((&train, &far(&golden.labels)), 1.0, &settings).unwrap();
    assert_eq!(probe.weights(), near.weights());
    assert_eq!(probe.classify(&test).unwrap(), far(&near.classify(&test).unwrap()));
}

#[test]
fn the_chosen_rate_separates_what_can_be_separated() {
    let (golden, train, test) = golden();
    let probe = linear_probe((&train, &golden.labels), 1.0, &ProbeSettings::default()).unwrap();
    assert!(ProbeSettings::default().learning_rates.contains(&probe.learning_rate));
    assert!(probe.held_out.is_some());
    let predicted = probe.classify(&test).unwrap();
    let right = predicted.iter().zip(&golden.truth).filter(|(a, b)| a == b).count();
    let numpy = golden.probes[0].predicted.iter().zip(&golden.truth).filter(|(a, b)| a == b).count();
    assert!(right + 2 >= numpy, "{right} right, at a fixed rate {numpy}");
}
