//! What calls in a pickle give. Nothing is called: the few functions that describe tensors and containers are known by
//! name, and anything else becomes an object without attributes.

use super::value::{dtype, Id, TensorRef, Value, Values};

/// The value of a call.
pub(super) fn call(values: &mut Values, callable: Id, arguments: Id) -> Value {
    let Value::Global(name) = values.get(callable) else { return object() };
    let arguments = values.sequence(arguments).unwrap_or_default();
    let first = arguments.first().copied();
    match name.as_str() {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor_v3" => {
            tensor(values, arguments).map_or(Value::Opaque, Value::Tensor)
        }
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            first.map_or(Value::Opaque, |id| values.get(id).clone())
        }
        // A tensor of a subclass, or with attributes: the function that makes it, its type, the arguments.
        "torch._tensor._rebuild_from_type_v2" => match *arguments {
            [function, _, arguments, ..] if function != callable && !is_wrapper(values, function) => {
                call(values, function, arguments)
            }
            _ => Value::Opaque,
        },
        "torch.Size" | "builtins.tuple" | "builtins.list" | "builtins.set" | "builtins.frozenset" => {
            Value::Sequence(first.and_then(|id| values.sequence(id)).unwrap_or_default().to_vec())
        }
        _ => Value::Map { items: first.map(|id| pairs(values, id)).unwrap_or_default(), state: None },
    }
}

fn object() -> Value {
    Value::Map { items: Vec::new(), state: None }
}

fn is_wrapper(values: &Values, function: Id) -> bool {
    matches!(values.get(function), Value::Global(name) if name == "torch._tensor._rebuild_from_type_v2")
}

/// The items of a dictionary that is made from a sequence of pairs or from another dictionary.
fn pairs(values: &Values, id: Id) -> Vec<[Id; 2]> {
    match values.get(id) {
        Value::Map { items, .. } => items.clone(),
        Value::Sequence(ids) => ids.iter().filter_map(|id| <[Id; 2]>::try_from(values.sequence(*id)?).ok()).collect(),
        _ => Vec::new(),
    }
}

/// A tensor: storage, offset, shape, stride, and with `_rebuild_tensor_v3` the type as the seventh argument.
fn tensor(values: &Values, arguments: &[Id]) -> Option<TensorRef> {
    let [storage, offset, shape, stride, ..] = *arguments else { return None };
    let Value::Storage { kind, key, offset: start } = values.get(storage) else { return None };
    // A view with the opposite sign of its storage. It is not read, so that it is reported as missing.
    let negative = arguments.get(6).and_then(|metadata| values.item(*metadata, "neg"));
    if negative.is_some_and(|id| *values.get(id) == Value::Bool(true)) {
        return None;
    }
    let kind = match arguments.get(6).map(|id| values.get(*id)) {
        Some(Value::Global(own)) => own,
        _ => kind,
    };
    Some(TensorRef {
        dtype: dtype(kind)?,
        storage: key.clone(),
        offset: values.size(offset)?.checked_add(*start)?,
        shape: values.sizes(shape)?,
        stride: values.sizes(stride)?,
    })
}

/// A storage, given the identifier by which PyTorch names it: `("storage", type, key, location, elements)`, in old files
/// followed by `None` or a view `(key, first element, elements)`.
pub(super) fn persistent(values: &mut Values, id: Id) -> Value {
    let storage = (|| {
        let [tag, kind, key, _, _, rest @ ..] = values.sequence(id)? else { return None };
        if values.text(*tag) != Some("storage") {
            return None;
        }
        let Value::Global(kind) = values.get(*kind) else { return None };
        let view = rest.first().and_then(|view| values.sequence(*view));
        let offset = match view {
            Some([_, first, ..]) => values.size(*first)?,
            _ => 0,
        };
        Some((kind.clone(), values.text(*key)?.to_string(), offset))
    })();
    let Some((kind, key, offset)) = storage else { return Value::Opaque };
    if let Some(dtype) = dtype(&kind) {
        values.storages.insert(key.clone(), dtype);
    }
    Value::Storage { kind, key, offset }
}
