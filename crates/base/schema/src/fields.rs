//! Sets of fields: who owns what (`fieldsV1` of managedFields).
