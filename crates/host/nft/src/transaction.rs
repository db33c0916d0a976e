//! Transactions: changes that the kernel takes whole or not at all.

use dhow_netlink::{Attributes, Batch, Error, Request, Socket};

use crate::expression::Expression;
use crate::ruleset::{Chain, ChainKind, DataType, Element, Family, Members, Set, Table};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const NFTA_SET_FLAG_INTERVAL: u32 = 0x4;
const NFTA_SET_FLAG_MAP: u32 = 0x8;
const NFTA_SET_FLAG_TIMEOUT: u32 = 0x10;
const NFTA_SET_FLAG_EVAL: u32 = 0x20;
const NFTA_SET_FLAG_CONCAT: u32 = 0x80;
const ELEMENT_INTERVAL_END: u32 = 1;

/// A note for the `nft` program, which could not print the set otherwise: the
/// key (0) is described in four bytes (4) as being in host order (1).
const HOST_ORDER_KEY: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// Elements in one message: far below the 64 KiB that an attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// A list of changes to tables; see the crate's documentation.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    table: Table,
    next_set: u32,
}

impl Transaction {
    /// An empty transaction; its first changes are to `table`.
    pub fn new(table: Table) -> Self {
        let mut transaction = Self {
            batch: Batch::new(),
            table,
            next_set: 1,
        };
        transaction.marker(NFNL_MSG_BATCH_BEGIN);
        transaction
    }

    /// The changes that follow are to another table; all are taken or none.
    pub fn on(&mut self, table: Table) -> &mut Self {
        self.table = table;
        self
    }

    /// Adds the table; one that is there already is left as it is.
    pub fn add_table(&mut self) -> &mut Self {
        let name = self.table.name.clone();
        self.request(NFT_MSG_NEWTABLE, NLM_F_CREATE)
            .string(1, &name)
            .number_be(2, 0);
        self
    }

    /// Deletes the table with everything in it, there or not.
    pub fn remove_table(&mut self) -> &mut Self {
        // Adding first makes deletion succeed either way.
        self.add_table();
        let name = self.table.name.clone();
        self.request(NFT_MSG_DELTABLE, 0).string(1, &name);
        self
    }

    /// Adds a chain; one that is there already is left as it is.
    pub fn add_chain(&mut self, chain: &Chain<'_>) -> &mut Self {
        let table = self.table.name.clone();
        let mut request = self.request(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        request.string(1, &table).string(3, chain.name);
        if let Some((kind, hook, priority)) = chain.base {
            request.nest(4, |nest| {
                nest.number_be(1, hook as u32).number_be(2, priority as u32);
            });
            request.number_be(5, 1);
            request.string(
                7,
                if kind == ChainKind::Nat {
                    "nat"
                } else {
                    "filter"
                },
            );
        }
        drop(request);
        self
    }

    /// Deletes an empty chain that nothing jumps to.
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table.name.clone();
        self.request(NFT_MSG_DELCHAIN, 0)
            .string(1, &table)
            .string(3, name);
        self
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table.name.clone();
        self.request(NFT_MSG_DELRULE, 0)
            .string(1, &table)
            .string(2, name);
        self
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expression]) -> &mut Self {
        let table = self.table.name.clone();
        self.request(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
            .string(1, &table)
            .string(2, chain)
            .nest(4, |list| {
                for expression in expressions {
                    expression.write(list);
                }
            });
        self
    }

    /// Adds a set or map; one that is there already is left as it is.
    pub fn add_set(&mut self, set: &Set<'_>) -> &mut Self {
        let table = self.table.name.clone();
        let id = self.next_set;
        self.next_set += 1;
        let (mut flags, capacity) = match set.members {
            Members::Keys => (0, None),
            Members::Ranges => (NFTA_SET_FLAG_INTERVAL, None),
            Members::Learned { capacity } => {
                (NFTA_SET_FLAG_TIMEOUT | NFTA_SET_FLAG_EVAL, Some(capacity))
            }
        };
        if !set.value.is_empty() {
            flags |= NFTA_SET_FLAG_MAP;
        }
        if set.key.len() > 1 {
            flags |= NFTA_SET_FLAG_CONCAT;
        }
        let mut request = self.request(NFT_MSG_NEWSET, NLM_F_CREATE);
        request
            .string(1, &table)
            .string(2, set.name)
            .number_be(3, flags)
            .number_be(4, concat_type(set.key))
            .number_be(5, concat_length(set.key));
        if !set.value.is_empty() {
            request
                .number_be(6, concat_type(set.value))
                .number_be(7, concat_length(set.value));
        }
        if set.key.len() > 1 || capacity.is_some() {
            request.nest(9, |description| {
                if let Some(capacity) = capacity {
                    description.number_be(1, capacity);
                }
                if set.key.len() > 1 {
                    description.nest(2, |fields| {
                        for field in set.key {
                            fields.nest(1, |nest| {
                                nest.number_be(1, field.length());
                            });
                        }
                    });
                }
            });
        }
        request.number_be(10, id);
        if let [DataType::Interface | DataType::Number] = set.key {
            request.attribute(13, &HOST_ORDER_KEY);
        }
        drop(request);
        self
    }

    /// Deletes a set that no rule refers to.
    pub fn delete_set(&mut self, name: &str) -> &mut Self {
        let table = self.table.name.clone();
        self.request(NFT_MSG_DELSET, 0)
            .string(1, &table)
            .string(2, name);
        self
    }

    /// Adds elements; one that is there already with the same value is left as
    /// it is, one with another value fails the transaction (`EEXIST`).
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements)
    }

    /// Deletes elements; one that is not there fails the transaction (`ENOENT`).
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NFT_MSG_DELSETELEM, 0, set, elements)
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, set: &str) -> &mut Self {
        let table = self.table.name.clone();
        self.request(NFT_MSG_DELSETELEM, 0)
            .string(1, &table)
            .string(2, set);
        self
    }

    /// Hands the transaction to the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the first change that the kernel did not take;
    /// none of the others was carried out then.
    pub fn commit(mut self, socket: &Socket) -> Result<(), Error> {
        self.marker(NFNL_MSG_BATCH_END);
        socket.run(&mut self.batch)
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) -> &mut Self {
        let table = self.table.name.clone();
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.request(kind, flags)
                .string(1, &table)
                .string(2, set)
                .nest(3, |list| {
                    for element in some {
                        write_element(list, element);
                    }
                });
        }
        self
    }

    fn request(&mut self, kind: u16, flags: u16) -> Request<'_> {
        let family = self.table.family;
        let mut request = self
            .batch
            .request(NFNL_SUBSYS_NFTABLES << 8 | kind, flags | NLM_F_ACK);
        request.header(&[family as u8, 0, 0, 0]);
        request
    }

    fn marker(&mut self, kind: u16) {
        let subsystem = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        self.batch
            .request(kind, 0)
            .header(&[0, 0, subsystem[0], subsystem[1]]);
    }
}

fn write_element(list: &mut Request<'_>, element: &Element) {
    let key = |nest: &mut Request<'_>, bytes: &[u8]| {
        nest.nest(1, |key| {
            key.attribute(1, bytes);
        });
    };
    match element {
        Element::Key(bytes) => {
            list.nest(1, |nest| key(nest, bytes));
        }
        Element::Range(first, end) => {
            list.nest(1, |nest| key(nest, first));
            if let Some(end) = end {
                list.nest(1, |nest| {
                    key(nest, end);
                    nest.number_be(3, ELEMENT_INTERVAL_END);
                });
            }
        }
        Element::Span(first, last) => {
            list.nest(1, |nest| {
                key(nest, first);
                // NFTA_SET_ELEM_KEY_END.
                nest.nest(10, |end| {
                    end.attribute(1, last);
                });
            });
        }
        Element::Map(bytes, value) => {
            list.nest(1, |nest| {
                key(nest, bytes);
                nest.nest(2, |data| {
                    data.attribute(1, value);
                });
            });
        }
        Element::Verdict(bytes, verdict) => {
            list.nest(1, |nest| {
                key(nest, bytes);
                nest.nest(2, |data| verdict.write(data));
            });
        }
    }
}

/// The `nft` program packs the types of a concatenation six bits each.
fn concat_type(fields: &[DataType]) -> u32 {
    match fields {
        [single] => single.wire(),
        several => several
            .iter()
            .fold(0, |packed, field| packed << 6 | field.wire()),
    }
}

fn concat_length(fields: &[DataType]) -> u32 {
    match fields {
        [single] => single.length(),
        several => several.iter().map(|field| field.padded()).sum(),
    }
}

/// The names of all tables of `family` in the socket's network namespace.
///
/// # Errors
///
/// The kernel's refusal or the socket's failure.
pub fn tables(socket: &Socket, family: Family) -> Result<Vec<String>, Error> {
    let mut batch = Batch::new();
    batch
        .request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_DUMP)
        .header(&[family as u8, 0, 0, 0]);
    let mut names = Vec::new();
    socket.dump(&mut batch, |message| {
        names.extend(message.attributes(4).string(1));
    })?;
    Ok(names)
}

/// The elements that are in a map ([`Element::Map`]), for maps that packets fill.
///
/// # Errors
///
/// The kernel's refusal or the socket's failure.
pub fn learned(socket: &Socket, table: &Table, map: &str) -> Result<Vec<Element>, Error> {
    let mut batch = Batch::new();
    batch
        .request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM, NLM_F_DUMP)
        .header(&[table.family as u8, 0, 0, 0])
        .string(1, &table.name)
        .string(2, map);
    let mut elements = Vec::new();
    socket.dump(&mut batch, |message| {
        let list = Attributes::nested(message.attributes(4).get(3).unwrap_or_default());
        for (_, element) in list {
            let element = Attributes::nested(element);
            let part = |kind| {
                let part = Attributes::nested(element.get(kind)?);
                part.get(1).map(<[u8]>::to_vec)
            };
            elements.extend(
                part(1)
                    .zip(part(2))
                    .map(|(key, value)| Element::Map(key, value)),
            );
        }
    })?;
    Ok(elements)
}
