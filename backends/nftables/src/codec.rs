//! What is not particular to the table of Services: for other tables of ours.

pub use crate::answer::{
    RawElement, RawSet, TableInfo, read_chain, read_counter, read_raw_elements, read_raw_set,
    read_rule,
};
pub use crate::declaration::{SetType, address_type, concatenated, datatype};
pub use crate::error::Error;
pub use crate::expression::{Expression, Register, Rejection, Verdict};
pub use crate::message::{Elements, Table, kind};
pub use crate::readback::table;
pub use crate::report::Report;
pub use crate::rule::{Chain, Hook, Rule, fingerprint};
pub use crate::session::{Session, accepts, rejected};
pub use crate::userdata::{concat_map, concat_set, number_set, plain_map, plain_set};
