//! The queue of teacher embeddings: first in, first out, and restored from a checkpoint to the same bits.

use std::collections::{BTreeMap, VecDeque};

use candle_core::{Device, Tensor};
use lgd_train::error::TrainError;
use lgd_train::objective::TeacherQueue;
use lgd_train::rng::Stream;

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::values;

on_every_f32_device!(
    it_starts_empty_fills_and_lets_the_oldest_go,
    it_agrees_with_a_plain_queue_whatever_the_batches,
    it_comes_back_from_a_checkpoint_in_the_same_order,
    a_long_queue_is_read_in_pieces,
    a_random_queue_is_full_and_comes_back_at_every_step,
    entries_of_own_samples_are_left_out,
    what_does_not_fit_is_refused,
);

const DIM: usize = 3;

/// The embedding that the cache would hold for a row.
fn embedding(row: u32) -> [f32; DIM] {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let row = row as f32;
    [row, 0.5 - row, 1.0 / (1.0 + row)]
}

fn embeddings(rows: &[u32]) -> Tensor {
    let values: Vec<f32> = rows.iter().flat_map(|row| embedding(*row)).collect();
    Tensor::from_vec(values, (rows.len(), DIM), &Device::Cpu).unwrap()
}

/// Pushes embeddings on the CPU, as the cache returns them, whichever device the queue is on.
fn push(queue: &mut TeacherQueue, rows: impl IntoIterator<Item = u32>) {
    let rows: Vec<u32> = rows.into_iter().collect();
    queue.push(&rows, &embeddings(&rows)).unwrap();
}

fn new<D: TestDevice>(capacity: usize) -> TeacherQueue {
    TeacherQueue::new(capacity, DIM, &D::device()).unwrap()
}

/// The rows of the entries in queue order, checked against the rows in the state.
fn entries(queue: &TeacherQueue) -> Vec<u32> {
    let rows = queue.state().unwrap()["queue.rows"].to_vec1::<u32>().unwrap();
    assert_eq!(rows.len(), queue.filled());
    match queue.tensor().unwrap() {
        None => assert!(rows.is_empty()),
        Some(tensor) => assert_eq!(values(&tensor), values(&embeddings(&rows))),
    }
    rows
}

fn sorted(mut rows: Vec<u32>) -> Vec<u32> {
    rows.sort_unstable();
    rows
}

fn it_starts_empty_fills_and_lets_the_oldest_go<D: TestDevice>() {
    let mut queue = new::<D>(5);
    assert!(queue.tensor().unwrap().is_none());
    assert_eq!((queue.filled(), queue.capacity()), (0, 5));
    push(&mut queue, [10, 11]);
    assert_eq!(entries(&queue), [10, 11], "only what is filled is there");
    push(&mut queue, [12, 13]);
    push(&mut queue, [14, 15]);
    assert_eq!(sorted(entries(&queue)), [11, 12, 13, 14, 15], "10 came first and goes first");
    push(&mut queue, []);
    push(&mut queue, 20..29);
    assert_eq!(
        sorted(entries(&queue)),
        [24, 25, 26, 27, 28],
        "of a batch longer than the queue the end stays"
    );
    push(&mut queue, [30]);
    assert_eq!(sorted(entries(&queue)), [25, 26, 27, 28, 30]);
}

fn it_agrees_with_a_plain_queue_whatever_the_batches<D: TestDevice>() {
    let mut stream = Stream::new(&[7]);
    for capacity in [1, 2, 7, 16] {
        let (mut queue, mut plain) = (new::<D>(capacity), VecDeque::new());
        let mut next = 0;
        for _ in 0..60 {
            let count = u32::try_from(stream.next_u64() % 20).unwrap();
            push(&mut queue, next..next + count);
            plain.extend(next..next + count);
            next += count;
            let surplus = plain.len().saturating_sub(capacity);
            plain.drain(..surplus);
            assert_eq!(sorted(entries(&queue)), Vec::from(plain.clone()), "capacity {capacity}");
        }
    }
}

fn read(rows: &[usize]) -> Result<Tensor, TrainError> {
    let rows: Vec<u32> = rows.iter().map(|row| u32::try_from(*row).unwrap()).collect();
    Ok(embeddings(&rows))
}

fn it_comes_back_from_a_checkpoint_in_the_same_order<D: TestDevice>() {
    for pushes in [vec![], vec![3], vec![3, 4], vec![4, 4], vec![4, 4, 3], vec![9]] {
        let mut queue = new::<D>(8);
        let mut next = 100;
        for count in pushes {
            push(&mut queue, next..next + count);
            next += count;
        }
        // Through the bytes of a file, like a checkpoint.
        let bytes = safetensors::serialize(queue.state().unwrap(), None).unwrap();
        let saved = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        let mut back = new::<D>(8);
        push(&mut back, [1, 2, 3]);
        back.restore(&saved.into_iter().collect(), &mut read).unwrap();
        assert_eq!(entries(&back), entries(&queue));
        for queue in [&mut queue, &mut back] {
            push(queue, 200..205);
        }
        assert_eq!(entries(&back), entries(&queue), "and goes on in the same places");
    }
}

fn a_long_queue_is_read_in_pieces<D: TestDevice>() {
    let mut queue = new::<D>(10_000);
    push(&mut queue, 0..9_001);
    let mut back = new::<D>(10_000);
    let mut pieces = Vec::new();
    let counting = &mut |rows: &[usize]| {
        pieces.push(rows.len());
        read(rows)
    };
    back.restore(&queue.state().unwrap(), counting).unwrap();
    assert_eq!(entries(&back), entries(&queue));
    assert_eq!(pieces.iter().sum::<usize>(), 9_001);
    assert!(pieces.iter().all(|len| *len <= 4096), "{pieces:?}");
}

/// Row of an entry that is still random, in the state.
const NO_ROW: u32 = u32::MAX;

fn a_random_queue_is_full_and_comes_back_at_every_step<D: TestDevice>() {
    let new = || TeacherQueue::new(5, DIM, &D::device()).unwrap().at_random(7).unwrap();
    let rows = |queue: &TeacherQueue| queue.state().unwrap()["queue.rows"].to_vec1::<u32>().unwrap();
    let contents = |queue: &TeacherQueue| values(&queue.tensor().unwrap().unwrap());
    let start = contents(&new());
    for vector in start.chunks(DIM) {
        assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6, "{vector:?}");
    }
    assert_ne!(start[..DIM], start[DIM..2 * DIM]);
    let other = TeacherQueue::new(5, DIM, &D::device()).unwrap().at_random(8).unwrap();
    assert_ne!(contents(&other), start, "the seed decides");
    let mut queue = new();
    assert_eq!((queue.filled(), rows(&queue)), (5, vec![NO_ROW; 5]));
    let after = [
        vec![10, 11, NO_ROW, NO_ROW, NO_ROW],
        vec![10, 11, 12, 13, NO_ROW],
        vec![15, 11, 12, 13, 14],
        vec![15, 16, 17, 13, 14],
    ];
    for (first, expected) in (10..).step_by(2).zip(after) {
        push(&mut queue, first..first + 2);
        assert_eq!(rows(&queue), expected);
        let known = expected.iter().filter(|row| **row != NO_ROW).count();
        assert_eq!(contents(&queue)[..DIM * known], values(&embeddings(&expected[..known])));
        assert_eq!(contents(&queue)[DIM * known..], start[DIM * known..]);
        // The restored queue was used before, and goes on like the other.
        let mut back = new();
        push(&mut back, 1..9);
        back.restore(&queue.state().unwrap(), &mut read).unwrap();
        assert_eq!((rows(&back), contents(&back)), (rows(&queue), contents(&queue)));
        let mut goes_on = new();
        goes_on.restore(&queue.state().unwrap(), &mut read).unwrap();
        push(&mut goes_on, [90, 91, 92]);
        push(&mut back, [90, 91, 92]);
        assert_eq!(rows(&goes_on), rows(&back));
    }
    let u32s = |values: &[u32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    let state = |rows: &[u32], next: u32| {
        BTreeMap::from([("queue.rows".to_owned(), u32s(rows)), ("queue.next".to_owned(), u32s(&[next]))])
    };
    let mixed = [NO_ROW, 3, NO_ROW, NO_ROW, NO_ROW];
    for (rows, next) in [(&mixed[..], 0), (&[1, 2][..], 2), (&[1, NO_ROW, NO_ROW, NO_ROW, NO_ROW][..], 2)] {
        assert!(new().restore(&state(rows, next), &mut read).is_err(), "{rows:?} {next}");
    }
    let mut empty = TeacherQueue::new(5, DIM, &D::device()).unwrap();
    let error = empty.restore(&new().state().unwrap(), &mut read).unwrap_err().to_string();
    assert!(error.starts_with("queue.rows"), "{error}");
}

/// Two views per sample: rows 4 and 5 are of sample 2.
fn entries_of_own_samples_are_left_out<D: TestDevice>() {
    let queue = || TeacherQueue::new(6, DIM, &D::device()).unwrap().with_views(2);
    let mut filled = queue();
    push(&mut filled, [4, 9, 0, 5]);
    assert!(filled.own_entries(&[2, 6], 2).unwrap().is_none());
    let own = filled.own_entries(&[4, 2, 1], 3).unwrap().unwrap();
    assert_eq!(own.dims(), [3, 4]);
    let left_out: Vec<bool> = values(&own).iter().map(|offset| *offset < -1e20).collect();
    let expected = [true, false, false, true, false, false, false, false, false, false, true, false];
    assert_eq!(left_out, expected);
    assert!(values(&own).iter().zip(expected).all(|(offset, out)| out || *offset == 0.0));
    assert!(filled.own_entries(&[4], 2).is_err(), "a row is missing");
    assert!(queue().own_entries(&[4], 1).unwrap().is_none(), "an empty queue has no entry");
    let random = queue().at_random(0).unwrap();
    assert!(random.own_entries(&[NO_ROW], 1).unwrap().is_none(), "a random entry is nobody's");
    let x = embeddings(&[4, 2, 1]).to_device(&D::device()).unwrap();
    let similarities = filled.similarities(&x, Some(&own)).unwrap().unwrap();
    let plain = filled.similarities(&x, None).unwrap().unwrap();
    for ((with, without), out) in values(&similarities).iter().zip(values(&plain)).zip(expected) {
        assert!(if out { *with < -1e20 } else { *with == without }, "{with} {without}");
    }
}

fn what_does_not_fit_is_refused<D: TestDevice>() {
    assert!(TeacherQueue::new(0, DIM, &D::device()).is_err());
    let mut queue = new::<D>(4);
    push(&mut queue, [1, 2, 3]);
    let wrong = queue.push(&[1, 2], &embeddings(&[1]));
    assert!(matches!(wrong, Err(TrainError::Dimensions { .. })));
    let u32s = |values: &[u32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    let state = |rows: &[u32], next: u32| {
        BTreeMap::from([("queue.rows".to_owned(), u32s(rows)), ("queue.next".to_owned(), u32s(&[next]))])
    };
    let wrong = [
        (&[1, 2, 3, 4, 5][..], 0, "queue.rows"),
        (&[1, 2, 3, 4], 4, "queue.next"),
        (&[1, 2], 1, "queue.next"),
        (&[1, 2], 3, "queue.next"),
        (&[], 1, "queue.next"),
    ];
    for (rows, next, member) in wrong {
        let error = queue.restore(&state(rows, next), &mut read).unwrap_err().to_string();
        assert!(error.starts_with(member), "{rows:?} {next}: {error}");
    }
    let nothing = queue.restore(&BTreeMap::new(), &mut read);
    assert!(matches!(nothing, Err(TrainError::MissingState { .. })));
    assert_eq!(entries(&queue), [1, 2, 3], "nothing was changed");
    let short = queue.restore(&state(&[7, 8, 9, 6], 3), &mut |_| Ok(embeddings(&[1])));
    assert!(matches!(short, Err(TrainError::Dimensions { .. })));
    assert!(queue.tensor().unwrap().is_none(), "an entry without its embedding is none");
    queue.restore(&state(&[7, 8, 9, 6], 3), &mut read).unwrap();
    push(&mut queue, [5]);
    assert_eq!(entries(&queue), [7, 8, 9, 5]);
}
