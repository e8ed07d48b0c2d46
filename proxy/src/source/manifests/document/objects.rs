//! The objects of a document, read one after the other.

use std::fmt;
use std::slice::Iter;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Defined;
use super::content::{Content, Single};
use crate::source::SourceEvent;
use crate::source::convert::{Converted, Converter, Wire};
use crate::source::wire::{self, cluster, policy};

/// Reads objects one after the other, each of the next kind, and converts them at once.
pub(super) struct Objects<'a> {
    pub(super) line: u64,
    pub(super) contents: Iter<'a, Content>,
    pub(super) converter: &'a mut Converter,
    pub(super) defined: &'a mut Vec<Defined>,
}

impl Objects<'_> {
    fn read<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        match self.contents.next() {
            Some(Content::One(single)) => match single {
                Single::Service => self.keep::<wire::Service, D>(deserializer),
                Single::EndpointSlice => self.keep::<wire::EndpointSlice, D>(deserializer),
                Single::Node => {
                    let node = wire::Node::deserialize(deserializer)?;
                    let converted = node.convert(self.converter);
                    self.converted(converted);
                    // Network policy sees a Node in another way.
                    let wire::Node { metadata, status, .. } = node;
                    let converted = cluster::PeerNode { metadata, status }.convert(self.converter);
                    self.converted(converted);
                    Ok(())
                }
                Single::ServiceCidr => self.keep::<wire::ServiceCidr, D>(deserializer),
                Single::Pod => self.keep::<policy::Pod, D>(deserializer),
                Single::Namespace => self.keep::<policy::Namespace, D>(deserializer),
                Single::NetworkPolicy => self.keep::<policy::NetworkPolicy, D>(deserializer),
                Single::ClusterNetworkPolicy => {
                    self.keep::<cluster::ClusterNetworkPolicy, D>(deserializer)
                }
            },
            // Lists in lists are not read.
            Some(Content::List(_) | Content::Foreign) | None => {
                IgnoredAny::deserialize(deserializer).map(drop)
            }
        }
    }

    fn keep<'de, T, D>(&mut self, deserializer: D) -> Result<(), D::Error>
    where
        T: Wire + Deserialize<'de>,
        D: Deserializer<'de>,
        Converted<T::Object>: Into<SourceEvent>,
    {
        let converted = T::deserialize(deserializer)?.convert(self.converter);
        self.converted(converted);
        Ok(())
    }

    fn converted<O>(&mut self, converted: Converted<O>)
    where
        Converted<O>: Into<SourceEvent>,
    {
        let (kind, key) = (converted.kind, converted.key.clone());
        self.defined.push(Defined { line: self.line, kind, key, event: converted.into() });
    }
}

/// A document that is one object.
pub(super) struct One<'a>(pub(super) Objects<'a>);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        self.0.read(deserializer)
    }
}

/// A document that is a list of objects.
pub(super) struct List<'a>(pub(super) Objects<'a>);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The value of `items`: a sequence or null.
struct Items<'a, 'b>(&'a mut Objects<'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Item(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// One of the items.
struct Item<'a, 'b>(&'a mut Objects<'b>);

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.read(deserializer)
    }
}
