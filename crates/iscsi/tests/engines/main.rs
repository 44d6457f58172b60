//! The engines from outside: against each other, and against peers that break the rules.

mod common;
mod full_feature;
mod login;
mod pair;
mod robust;
