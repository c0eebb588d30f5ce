"""ONNX models as torch and the onnx package write them, damaged ones, and hostile ones."""

import os
import random
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from support.hostile import MAX_MEMORY, mutated, peak_memory, refused


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 16)
        self.lstm = torch.nn.LSTM(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = torch.nn.GRU(24, 10, batch_first=True)
        self.attention = torch.nn.MultiheadAttention(10, 2, batch_first=True)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(10, 9), torch.nn.Linear(9, 16))
        self.conv = torch.nn.Conv1d(16, 8, 3)
        self.rnn = torch.nn.RNN(16, 5)
        self.head = torch.nn.Linear(16, 30, bias=False)

    def forward(self, tokens):
        x = self.gru(self.lstm(self.embedding(tokens))[0])[0]
        x = self.blocks(self.attention(x, x, x)[0])
        return self.conv(x.transpose(1, 2)), self.rnn(x)[0], self.head(x)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = torch.randint(0, 30, (2, 7))
        torch.onnx.export(network, (tokens,), str(path), dynamo=False)
    return path


def test_the_weights_of_an_exported_network_are_those_of_its_state_dict(exported, network):
    """The exporter transposes weights of Linear, and changes the order of gates."""
    found = {t.name: t.read() for t in open_checkpoint(exported).tensors if t.role != "operand"}
    expected = {name: values.numpy() for name, values in network.state_dict().items()}
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_operators_tell_the_roles_of_matrices(exported):
    roles = {t.name: t.role for t in open_checkpoint(exported).tensors}
    assert roles["embedding.weight"] == "embedding"
    assert roles["head.weight"] == roles["blocks.0.weight"] == "linear"
    assert (roles["conv.weight"], roles["conv.bias"]) == ("convolution", "")
    assert (roles["lstm.weight_ih_l1"], roles["gru.bias_ih_l0"]) == ("recurrent", "")


def test_a_tensor_is_followed_to_the_layer_that_multiplies_with_it(tmp_path, rng):
    """Silero's models store the weights of an LSTM without the axis of its directions."""
    W = numpy_helper.from_array(rng.standard_normal((8, 3)).astype(np.float32), "W")
    zeros = numpy_helper.from_array(np.zeros((2, 4, 2), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["zeros"], value=zeros),
        helper.make_node("Constant", [], ["W2"], value=W),
        helper.make_node("Unsqueeze", ["W", "axes"], ["W3"]),
        helper.make_node("Unsqueeze", ["W2", "axes"], ["W4"]),
        helper.make_node("Slice", ["zeros", "a", "b"], ["state"]),
        helper.make_node("LSTM", ["x", "W3", "W4", "", "", "state", "state"], ["y"]),
    ]
    tensors = open_checkpoint(saved(tmp_path / "m.onnx", W, nodes=nodes)).tensors
    expected = {"W": "recurrent", "W2": "recurrent", "zeros": "operand"}
    assert {t.name: t.role for t in tensors} == expected


def test_an_exported_network_is_measured_like_the_network(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(80, 60), torch.nn.ReLU(), torch.nn.Linear(60, 70))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.zeros(2, 3, 80)
        torch.onnx.export(network, (x,), str(tmp_path / "m.onnx"), dynamo=False)
    before, after = specdiag.alpha(network), specdiag.alpha(tmp_path / "m.onnx")
    assert sorted(before.layer.values) == sorted(after.layer.values)
    after = after.sel(layer=before.layer)
    np.testing.assert_array_equal(after.alpha, before.alpha)


def model(*initialisers, nodes=(), **about):
    """Return a model that holds tensors, and operators that use them."""
    graph = helper.make_graph(list(nodes), "g", [], [], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], **about)


def saved(path, *initialisers, nodes=()):
    path.write_bytes(model(*initialisers, nodes=nodes).SerializeToString())
    return path


ALL_DTYPES = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16]
ALL_DTYPES += [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL]
ALL_DTYPES += [TensorProto.FLOAT8E4M3FN, TensorProto.COMPLEX64, TensorProto.UINT64]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=TensorProto.DataType.Name)
def test_values_are_those_that_the_onnx_package_reads(dtype, raw, tmp_path, rng):
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    values = rng.integers(0, 2, (3, 4)).astype(numpy_dtype)
    stored = numpy_helper.from_array(values, "w")
    if not raw:
        stored = helper.make_tensor("w", dtype, (3, 4), values.reshape(-1).tolist())
        assert not stored.raw_data
    (tensor,) = open_checkpoint(saved(tmp_path / "m.onnx", stored)).tensors
    expected = numpy_helper.to_array(stored)
    assert (tensor.dtype, tensor.shape) == (expected.dtype.name, (3, 4))
    np.testing.assert_array_equal(tensor.read(), expected)


INT8 = np.random.default_rng(0).integers(-128, 127, (12, 8)).astype(np.int8)
FEW, ROWS, COLUMNS = (np.random.default_rng(1).random(n).astype(np.float32) for n in (1, 12, 8))
BLOCKS = np.random.default_rng(1).random((3, 8)).astype(np.float32)
NIBBLES = np.random.default_rng(2).integers(0, 256, 48).astype(np.uint8).tobytes()
INT4 = helper.make_tensor("w", TensorProto.INT4, (12, 8), NIBBLES, raw=True)
UINT4 = helper.make_tensor("w", TensorProto.UINT4, (12, 8), list(range(16)) * 6)
ZEROS = np.arange(12).astype(np.int8)


@pytest.mark.parametrize(
    ("values", "scale", "zero", "attributes"),
    [
        (INT8, FEW[0], np.int8(3), {}),
        (INT8, COLUMNS, ZEROS[:8], {"axis": 1}),
        (INT8, COLUMNS, None, {}),
        (INT8, ROWS, ZEROS, {"axis": 0}),
        (INT8, ROWS, None, {"axis": -2}),
        (INT8, BLOCKS, None, {"axis": 0, "block_size": 4}),
        (INT8.view(np.uint8), BLOCKS, INT8[:3].view(np.uint8), {"axis": 0, "block_size": 4}),
        (INT8.astype(np.int32), ROWS, None, {"axis": 0}),
        (INT4, ROWS, None, {"axis": 0}),
        (UINT4, FEW[0], None, {}),
    ],
)
def test_quantised_weights_are_those_that_the_operator_of_onnx_computes(
    values, scale, zero, attributes, tmp_path
):
    stored = values if isinstance(values, TensorProto) else numpy_helper.from_array(values, "w")
    parts = [numpy_helper.from_array(np.asarray(scale), "s")]
    parts += [numpy_helper.from_array(np.asarray(zero), "z")] if zero is not None else []
    inputs = ["w", *(part.name for part in parts)]
    node = helper.make_node("DequantizeLinear", inputs, ["y"], **attributes)
    proto = model(stored, *parts, nodes=[node])
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (tensor,) = open_checkpoint(tmp_path / "m.onnx").tensors
    np.testing.assert_array_equal(tensor.read(), ReferenceEvaluator(proto).run(None, {})[0])
    assert tensor.rule.endswith("times scale (DequantizeLinear)")


@pytest.mark.parametrize("op", ["QLinearMatMul", "MatMulInteger"])
def test_weights_of_quantised_operators_are_dequantised(op, tmp_path):
    zero = np.int8(5)
    name = "w_quantized" if op == "MatMulInteger" else "w"
    if op == "MatMulInteger":
        inputs = ["x", name, "", "w_zero_point"]
    else:
        inputs = ["x", "xs", "xz", name, "w_scale", "w_zero_point", "ys", "yz"]
    parts = [
        numpy_helper.from_array(INT8, name),
        numpy_helper.from_array(COLUMNS, "w_scale"),
        numpy_helper.from_array(np.full(8, zero), "w_zero_point"),
    ]
    node = helper.make_node(op, inputs, ["y"])
    (tensor,) = open_checkpoint(saved(tmp_path / "m.onnx", *parts, nodes=[node])).tensors
    assert tensor.name == "w"
    expected = (INT8.astype(np.float32) - 5) * COLUMNS
    np.testing.assert_array_equal(tensor.read(), expected)


@pytest.mark.parametrize("with_zero", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_matmulnbits_are_dequantised(bits, with_zero, tmp_path, rng):
    """The layout of onnxruntime's docs/ContribOperators.md, written out for each element."""
    rows, columns, block = 5, 40, 16
    n_blocks = 3
    q = rng.integers(0, 2**bits, (rows, n_blocks, block))
    scale = rng.random((rows, n_blocks)).astype(np.float32)
    zero = rng.integers(0, 2**bits, (rows, n_blocks))
    pack = (lambda v: v[..., 0::2] | v[..., 1::2] << 4) if bits == 4 else (lambda v: v)
    padded = np.pad(zero, ((0, 0), (0, 1)))[:, : 4 if bits == 4 else 3]
    parts = {"b": pack(q).astype(np.uint8), "s": scale.reshape(-1)}
    parts |= {"z": pack(padded).astype(np.uint8).reshape(-1)} if with_zero else {}
    about = {"N": rows, "K": columns, "bits": bits, "block_size": block}
    node = helper.make_node("MatMulNBits", ["x", *parts], ["y"], domain="com.microsoft", **about)
    stored = [numpy_helper.from_array(values, name) for name, values in parts.items()]
    (tensor,) = open_checkpoint(saved(tmp_path / "m.onnx", *stored, nodes=[node])).tensors
    expected = np.zeros((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            k = j // block
            offset = zero[i, k] if with_zero else 2 ** (bits - 1)
            expected[i, j] = np.float32(q[i, k, j % block] - offset) * scale[i, k]
    np.testing.assert_array_equal(tensor.read(), expected)


def test_weights_of_a_quantised_lstm_have_the_layout_of_torch(tmp_path, rng):
    """The operator of onnxruntime has (directions, inputs, gates) where that of ONNX is turned."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(5, 4, bidirectional=True)
    order = [gate * 4 + i for gate in (0, 3, 1, 2) for i in range(4)]  # ONNX: i, o, f, c
    parts, expected, inputs = [], {}, ["x"]
    for name in ("weight_ih", "weight_hh"):
        both = [f"{name}_l0", f"{name}_l0_reverse"]
        q = [np.round(getattr(lstm, n).detach().numpy() * 99).astype(np.int8) for n in both]
        values = np.stack([matrix[order].T for matrix in q])
        parts += [
            numpy_helper.from_array(values, f"{name}_quantized"),
            numpy_helper.from_array(np.float32([0.5, 0.25]), f"{name}_scale"),
            numpy_helper.from_array(np.int8([0, 3]), f"{name}_zero_point"),
        ]
        expected[both[0]] = q[0] * np.float32(0.5)
        expected[both[1]] = (q[1] - np.float32(3)) * np.float32(0.25)
        inputs.append(f"{name}_quantized")
    scales = [part.name for part in parts if not part.name.endswith("_quantized")]
    inputs += ["", "", "", "", "", *scales]
    node = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y"], name="lstm", domain="com.microsoft"
    )
    tensors = open_checkpoint(saved(tmp_path / "m.onnx", *parts, nodes=[node])).tensors
    found = {t.name: t.read() for t in tensors}
    assert list(found) == [f"lstm.{name}" for name in expected]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[f"lstm.{name}"], values)


def test_scales_that_do_not_fit_are_a_problem_of_the_weight(tmp_path):
    parts = [numpy_helper.from_array(INT8, "w"), numpy_helper.from_array(ROWS, "s")]
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1)
    (tensor,) = open_checkpoint(saved(tmp_path / "m.onnx", *parts, nodes=[node])).tensors
    assert tensor.problem == "int8 with scales that do not fit its shape"


def test_constants_with_axes_are_tensors_and_shapes_are_not(tmp_path, rng):
    W = rng.standard_normal((4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(W)),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.arange(3))),
        helper.make_node("Constant", [], ["mask"], value=numpy_helper.from_array(W)),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("MatMul", ["x", "W"], ["y"]),
        helper.make_node("Add", ["y", "mask"], ["z"]),
    ]
    tensors = open_checkpoint(saved(tmp_path / "m.onnx", nodes=nodes)).tensors
    assert [(t.name, t.role) for t in tensors] == [("W", "linear"), ("mask", "operand")]


def test_tensors_of_graphs_in_attributes_have_the_name_of_their_operator(tmp_path):
    w = numpy_helper.from_array(np.ones((2, 2)), "w")
    branches = [
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], [w])
        for _ in range(2)
    ]
    node = helper.make_node(
        "If", ["c"], ["y"], name="switch", then_branch=branches[0], else_branch=branches[1]
    )
    tensors = open_checkpoint(saved(tmp_path / "m.onnx", w, nodes=[node])).tensors
    names = ["w", "switch.else_branch.w", "switch.then_branch.w"]
    assert sorted(t.name for t in tensors) == sorted(names)
    assert [t.role for t in tensors] == ["", "linear", "linear"]


def test_sparse_tensors_are_listed_as_such_with_their_shape(tmp_path):
    proto = model()
    values = helper.make_tensor("w", TensorProto.FLOAT, (1,), [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, (1,), [3])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9, 8]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (weight,) = weights(open_checkpoint(tmp_path / "m.onnx"))
    assert (weight.name, weight.shape, weight.problem) == ("w", (9, 8), "sparse tensor")


def measured(path, *nodes, **arrays):
    """Return the weights of a model that would be measured, with those of another reason."""
    stored = [numpy_helper.from_array(values, name) for name, values in arrays.items()]
    found = weights(open_checkpoint(saved(path / "m.onnx", *stored, nodes=nodes)))
    found = [w for w in found if len(w.shape) > 1]
    assert all(not w.reason for w in found) or all(w.reason for w in found)
    return found


def singular_values(matrices):
    return np.sort(np.concatenate([np.linalg.svd(m, compute_uv=False) for m in matrices]))


def test_a_kernel_that_keras_named_is_output_first_as_all_of_onnx_are(tmp_path):
    node = helper.make_node("Conv", ["x", "conv/kernel:0"], ["y"])
    kernel = np.zeros((8, 6, 3, 3), np.float32)
    (weight,) = measured(tmp_path, node, **{"conv/kernel:0": kernel})
    assert (weight.shape, weight.rule) == ((8, 6, 3, 3), "")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_groups_of_a_convolution_are_blocks_of_its_matrices(op, tmp_path, rng):
    """The oracle is the dense kernel, which computes the same with zeros between groups."""
    kernel = rng.standard_normal((8, 3, 2, 2)).astype(np.float32)
    node = helper.make_node(op, ["x", "w"], ["y"], group=2)
    (weight,) = measured(tmp_path, node, w=kernel)
    dense = np.zeros((8, 6, 2, 2), np.float32)
    dense[:4, :3], dense[4:, 3:] = kernel[:4], kernel[4:]
    positions = dense.reshape(8, 6, 4).transpose(2, 0, 1)
    found = weight.read()
    found = found.reshape(*found.shape[:2], -1).transpose(2, 0, 1)
    np.testing.assert_allclose(singular_values(found), singular_values(positions), rtol=1e-5)


LINEAR = ("MatMul", ["x", "w"])


def merged(w):
    return [w.reshape(24, 8)]


@pytest.mark.parametrize(
    ("shape", "before", "operator", "expected"),
    [
        ((4, 6, 8), [], LINEAR, list),
        ((1, 6, 8), [], LINEAR, lambda w: [w[0]]),
        ((2, 3, 6, 8), [], LINEAR, lambda w: list(w.reshape(6, 6, 8))),
        ((4, 6, 8), [], ("MatMul", ["w", "x"]), list),
        ((6, 4, 8), [("Transpose", {"perm": [1, 0, 2]})], LINEAR, lambda w: list(w.swapaxes(0, 1))),
        ((6, 4, 8), [("Reshape", [6, -1])], LINEAR, lambda w: [w.reshape(6, 32)]),
        ((6, 4, 8), [("Cast", {"to": 1}), ("Reshape", [24, 8])], LINEAR, merged),
        ((6, 8, 1), [("Squeeze", [-1])], LINEAR, lambda w: [w[..., 0]]),
        ((6, 4, 8), [], "bid,dhk->bihk", lambda w: [w.reshape(6, 32)]),
        ((4, 8, 6), [], "bihk,hkd->bid", lambda w: [w.reshape(32, 6)]),
        ((4, 6, 8), [], "eti,eio->eto", list),
    ],
)  # fmt: skip
def test_the_axes_of_an_operand_are_those_that_its_product_tells(
    shape, before, operator, expected, tmp_path, rng
):
    arrays, nodes, name = {"w": rng.standard_normal(shape).astype(np.float32)}, [], "w"
    for i, (op, about) in enumerate(before):
        sizes = isinstance(about, list)
        inputs = [name, *([f"sizes{i}"] if sizes else [])]
        arrays |= {f"sizes{i}": np.array(about)} if sizes else {}
        nodes.append(helper.make_node(op, inputs, [f"w{i}"], **({} if sizes else about)))
        name = f"w{i}"
    if isinstance(operator, str):
        nodes.append(helper.make_node("Einsum", ["x", name], ["y"], equation=operator))
    else:
        inputs = [name if part == "w" else part for part in operator[1]]
        nodes.append(helper.make_node(operator[0], inputs, ["y"]))
    found = measured(tmp_path, *nodes, **arrays)
    matrices = expected(arrays["w"])
    assert len(found) == len(matrices)
    for weight, matrix in zip(found, matrices, strict=True):
        values = weight.read()
        values = values.T if values.shape != matrix.shape else values
        np.testing.assert_array_equal(values, matrix)


def test_what_is_added_or_multiplied_value_by_value_is_no_weight(tmp_path, rng):
    arrays = {name: rng.standard_normal((6, 8)).astype(np.float32) for name in "abc"}
    found = measured(
        tmp_path,
        helper.make_node("Add", ["x", "a"], ["y"]),
        helper.make_node("Unsqueeze", ["b", "axes"], ["b1"]),
        helper.make_node("Mul", ["b1", "y"], ["z"]),
        helper.make_node("Concat", ["z", "c"], ["tokens"], axis=0),
        helper.make_node("MatMul", ["tokens", "v"], ["y2"]),
        **arrays,
    )
    assert {w.reason for w in found} == {"an operand that no layer multiplies with"}


def test_a_weight_that_the_model_computes_is_not_measured_without_the_rest(tmp_path, rng):
    arrays = {name: rng.standard_normal((6, 8)).astype(np.float32) for name in ("v", "mask")}
    nodes = [
        helper.make_node("Mul", ["v", "mask"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    found = measured(tmp_path, *nodes, **arrays)
    reasons = {w.reason for w in found}
    assert reasons == {"the model computes a weight from it, which is not done here"}


@pytest.mark.parametrize("sizes", [None, (16, 16, 8)])
def test_queries_keys_and_values_of_a_fused_attention_are_weights(sizes, tmp_path, rng):
    w = rng.standard_normal((12, 40 if sizes else 48)).astype(np.float32)
    about = {"qkv_hidden_sizes": sizes} if sizes else {}
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", **about)
    found = measured(tmp_path, node, w=w)
    assert [part.name for part in found] == ["w.query", "w.key", "w.value"]
    np.testing.assert_array_equal(np.hstack([part.read() for part in found]), w)


@pytest.mark.parametrize("name", ["", "/rnn/LSTM", "rnn"])
def test_the_matrices_of_a_recurrent_layer_have_the_name_of_one_module(name, tmp_path, rng):
    shapes = {"W__57": (1, 16, 6), "R__58": (1, 16, 4)}
    arrays = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    node = helper.make_node("LSTM", ["x", *arrays], ["y"], name=name)
    found = {w.name.partition("[")[0] for w in measured(tmp_path, node, **arrays)}
    owner = name.strip("/").removesuffix("/LSTM") or "W__57"
    assert found == {f"{owner}.weight_ih_l0", f"{owner}.weight_hh_l0"}
    assert len(measured(tmp_path, node, **arrays)) == 8


def test_values_in_a_file_beside_the_model_are_read(tmp_path, rng):
    arrays = {"a": rng.standard_normal((40, 30)), "b": rng.standard_normal(900)}
    proto = model(*(numpy_helper.from_array(values, name) for name, values in arrays.items()))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    assert (tmp_path / "m.data").stat().st_size >= 8 * 2100
    for tensor in open_checkpoint(tmp_path / "m.onnx").tensors:
        np.testing.assert_array_equal(tensor.read(), arrays[tensor.name])
    (tmp_path / "m.data").unlink()
    refused(tmp_path / "m.onnx", "the file 'm.data' with its values is missing; download it too")


def test_a_folder_of_links_to_another_folder_is_read(tmp_path):
    """huggingface_hub keeps files so: snapshots/COMMIT/m.onnx is a link to ../../blobs/HASH."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(
        model(numpy_helper.from_array(np.ones(900), "w")), blobs / "model",
        save_as_external_data=True, location="m.data",
    )  # fmt: skip
    (snapshot / "m.onnx").symlink_to(blobs / "model")
    (snapshot / "m.data").symlink_to(blobs / "m.data")
    (tensor,) = open_checkpoint(snapshot / "m.onnx").tensors
    assert tensor.read().sum() == 900


# Models made by hand.


def external(**places):
    stored = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2])
    stored.data_location = TensorProto.EXTERNAL
    for key, value in places.items():
        stored.external_data.add(key=key, value=value)
    return model(stored).SerializeToString()


def field(number, data):
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def nested_graphs(levels):
    graph = b""
    for _ in range(levels):
        attribute = field(1, b"body") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(7, graph)


def initialiser(**about):
    return model(TensorProto(**({"name": "w", "data_type": 1} | about))).SerializeToString()


GOOD = initialiser(dims=[2, 2], raw_data=bytes(16))
HOSTILE = {
    "cut short": (GOOD[:-9], "damaged, or cut short"),
    "no graph": (b"\x08\x08\x12\x07pytorch", "it has no graph"),
    "only the version": (b"\x08\x08", "it has no graph"),
    "a field of 2**62 bytes": (b"\x08\x08\x3a" + b"\xff" * 8 + b"\x3f", "damaged, or cut short"),
    "a number of 20 bytes": (b"\x08\x08\x3a" + b"\xff" * 20, "damaged, or cut short"),
    "a group": (b"\x08\x08\x3b" + bytes(9), "damaged, or cut short"),
    "field 0": (b"\x08\x08\x02\x01\x00", "damaged, or cut short"),
    "graphs nested 2,000 deep": (nested_graphs(2000), "graphs nested more than 20 times"),
    "too few bytes": (initialiser(dims=[2, 2], raw_data=bytes(15)), "bytes for a shape"),
    "too many bytes": (initialiser(dims=[2, 2], raw_data=bytes(17)), "bytes for a shape"),
    "too few numbers": (initialiser(dims=[9], float_data=[1, 2]), "bytes for a shape"),
    "too few small numbers": (
        initialiser(data_type=10, dims=[9], int32_data=[1, 2]), "do not fit its shape"
    ),
    "no values": (initialiser(dims=[9]), "do not fit its shape"),
    "a huge shape": (initialiser(dims=[2**62, 2**62]), "2**63 bytes"),
    "a negative size": (initialiser(dims=[-4], raw_data=bytes(16)), "negative"),
    "a thousand axes": (initialiser(dims=[1] * 1000, raw_data=bytes(4)), "dimensions"),
    "100,000 axes": (initialiser(dims=[1] * 100_000), "dimensions"),
    "a bool of sevens": (
        initialiser(data_type=9, dims=[4], raw_data=b"\7" * 4), "a bool tensor holds"
    ),
    "an unknown dtype": (
        initialiser(data_type=99, dims=[4], raw_data=bytes(16)), "dtype type 99 is not supported"
    ),
    "texts": (initialiser(data_type=8, dims=[1], string_data=[b"x"]), "dtype string"),
    "a tensor without a name": (
        initialiser(name="", dims=[1], raw_data=bytes(4)), "without a name"
    ),
    "a tensor twice": (
        model(*[numpy_helper.from_array(np.ones(2), "w")] * 2).SerializeToString(), "occurs twice"
    ),
    "a name that is not UTF-8": (GOOD.replace(b"\x01w", b"\x01\xff"), "not UTF-8"),
    "values in the folder above": (external(location="../private.bin"), "not a plain file"),
    "values by an absolute path": (external(location="/etc/passwd"), "not a plain file"),
    "values in a folder above a folder": (external(location="a/../../x"), "not a plain file"),
    "values by a path of Windows": (external(location="..\\private.bin"), "not a plain file"),
    "values without a name": (external(location=""), "not a plain file"),
    "values without a location": (external(offset="0"), "another file that is not named"),
    "values with a NUL in the name": (external(location="a\0b"), "not a plain file"),
    "values behind a link": (external(location="link.bin"), "not a plain file"),
    "values behind a linked folder": (external(location="up/private.bin"), "not a plain file"),
    "values in a pipe": (external(location="pipe.bin"), "not a regular file"),
    "values in a folder": (external(location="folder"), "not a regular file"),
    "values beyond the file": (external(location="x.bin", offset="90"), "too few for its values"),
    "values before the file": (external(location="x.bin", offset="-4"), "does not fit its shape"),
    "values at no number": (external(location="x.bin", offset="0x10"), "does not fit its shape"),
    "values of another length": (
        external(location="x.bin", offset="0", length="15"), "does not fit its shape"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_is_refused_in_one_line(kind, tmp_path):
    data, expected = HOSTILE[kind]
    (tmp_path / "private.bin").write_bytes(bytes(99))
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "x.bin").write_bytes(bytes(99))
    (folder / "link.bin").symlink_to(tmp_path / "private.bin")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.bin")
    (folder / "m.onnx").write_bytes(data)
    refused(folder / "m.onnx", expected)


@pytest.mark.slow
def test_millions_of_operators_take_little_memory_and_are_refused(tmp_path):
    graph = field(1, field(4, b"Add")) * 2_000_000
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    refused(tmp_path / "m.onnx", "more than")
    assert peak_memory(tmp_path / "m.onnx") < 2 * MAX_MEMORY


@pytest.mark.parametrize("kind", ["a huge shape", "a field of 2**62 bytes", "100,000 axes"])
def test_a_hostile_model_takes_little_memory(kind, tmp_path):
    (tmp_path / "m.onnx").write_bytes(HOSTILE[kind][0])
    assert peak_memory(tmp_path / "m.onnx") < MAX_MEMORY


def test_a_missing_package_is_named_where_it_is_needed(tmp_path, monkeypatch):
    listed = helper.make_tensor("listed", TensorProto.FLOAT16, (2,), [1.0, 2.0])
    raw = numpy_helper.from_array(np.ones(2), "raw")
    path = saved(tmp_path / "m.onnx", raw, listed)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    first, second = open_checkpoint(path).tensors
    assert first.read().tolist() == [1, 1]
    with pytest.raises(ValueError, match="needs the package onnx; pip install 'specdiag"):
        second.read()


def test_every_truncation_is_refused(exported, tmp_path):
    data = exported.read_bytes()
    for length in range(0, len(data), 997):
        (tmp_path / "m.onnx").write_bytes(data[:length])
        with pytest.raises(ValueError):
            [t.read() for t in open_checkpoint(tmp_path / "m.onnx").tensors]


def test_mutated_models_raise_only_value_and_os_errors(exported, tmp_path):
    data = exported.read_bytes()
    assert 0 < mutated(tmp_path / "m.onnx", data, random.Random(1), 150) < 150
