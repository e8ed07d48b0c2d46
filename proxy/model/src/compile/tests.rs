mod claims;
mod frontends;
mod node;
mod pools;
mod weights;
