//! Values nested deeper than the codec goes: an error for that call where the
//! value is, before its stack runs out.

use procession::{Pool, TaskError};
use serde::{Deserialize, Serialize};

use crate::support::checked;

/// A list, of one level of nesting per element.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct List(Option<Box<List>>);

impl List {
    fn of(levels: usize) -> Self {
        (1..levels).fold(List(None), |next, _| List(Some(Box::new(next))))
    }

    fn levels(&self) -> usize {
        std::iter::successors(Some(self), |list| list.0.as_deref()).count()
    }
}

/// One by one: the compiler's way takes stack for each element.
impl Drop for List {
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut list) = next {
            next = list.0.take();
        }
    }
}

const DEEP: usize = 20_000;

fn one_worker() -> Pool {
    Pool::builder().workers(1).build().unwrap()
}

#[track_caller]
fn is_too_deep(error: &TaskError, what: &str) {
    assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("the {what} could not be encoded: it nests deeper than the limit of 128 levels")
    );
}

#[test]
fn a_result_that_is_too_deep() {
    checked(async {
        let pool = one_worker();
        let worker = pool.apply(std::process::id, ()).await.unwrap();
        for levels in [129, DEEP] {
            let error = pool.apply(List::of, levels).await.unwrap_err();
            is_too_deep(&error, "result");
            assert_eq!(error.started(), Some(true));
        }
        assert_eq!(pool.apply(std::process::id, ()).await.unwrap(), worker);
        let error = pool.map(List::of, [1, 128, DEEP, 2]).await.unwrap_err();
        is_too_deep(&error, "result");
        assert_eq!(error.index(), Some(2));
    });
}

#[test]
fn an_argument_that_is_too_deep() {
    checked(async {
        let pool = one_worker();
        let worker = pool.apply(std::process::id, ()).await.unwrap();
        let levels = |list: List| list.levels();
        for deep in [129, DEEP] {
            let error = pool.apply(levels, List::of(deep)).await.unwrap_err();
            is_too_deep(&error, "arguments");
            assert_eq!(error.started(), Some(false));
        }
        assert_eq!(pool.apply(std::process::id, ()).await.unwrap(), worker);
        let error = pool.map(levels, [1, 128, DEEP, 2].map(List::of)).await.unwrap_err();
        is_too_deep(&error, "arguments");
        assert_eq!(error.index(), Some(2));
    });
}

#[test]
fn what_is_just_not_too_deep_travels() {
    checked(async {
        let pool = one_worker();
        let list = pool.apply(|list: List| list, List::of(128)).await.unwrap();
        assert_eq!(list.levels(), 128);
    });
}
