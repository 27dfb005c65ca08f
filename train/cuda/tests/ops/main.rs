//! Every operation of `lgd-cuda` against plain f64 loops, on the first GPU. Without a GPU the tests fail. On such a
//! machine run them on the software GPU (`scripts/software-gpu run ops`).

#[cfg(test)]
mod checks;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod reference;
