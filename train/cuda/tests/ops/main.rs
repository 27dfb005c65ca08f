//! Every operation of `lgd-cuda` against plain f64 loops, on the first GPU. Without one the tests fail: on a machine that has none they
//! run on a GPU made of software (`scripts/software-gpu run ops`).

#[cfg(test)]
mod checks;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod reference;
