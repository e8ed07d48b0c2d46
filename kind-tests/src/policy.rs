//! What network policy costs: packets of isolated pods beside others, under shunt and under layouts that others use; and
//! our own time and memory.

pub mod changes;
pub mod cost;
pub mod layout;
pub mod own;
pub mod scene;
