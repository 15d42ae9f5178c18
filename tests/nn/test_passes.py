"""Hand-written gradients against torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cerulea.nn.attention import rotate
from cerulea.nn.passes import norm_and_rotate, plain_rms_norm, relu_squared


def test_gradients_equal_finite_differences():
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    angle = torch.rand(5, 4, dtype=torch.float64)

    assert torch.autograd.gradcheck(relu_squared, x)
    assert torch.autograd.gradcheck(lambda x: plain_rms_norm(x, 1e-6), x)
    assert torch.autograd.gradcheck(lambda x: norm_and_rotate(x, angle.cos(), angle.sin(), 1e-6), x)


def test_results_equal_torchs_own_operations():
    x = torch.randn(2, 5, 3, 8)
    angle = torch.rand(5, 4)
    turned = rotate(F.rms_norm(x, (8,), None, 1e-6).transpose(1, 2), angle.cos(), angle.sin()).transpose(1, 2)

    torch.testing.assert_close(norm_and_rotate(x, angle.cos(), angle.sin(), 1e-6), turned)
    torch.testing.assert_close(plain_rms_norm(x, 1e-6), F.rms_norm(x, (8,), None, 1e-6))
    torch.testing.assert_close(relu_squared(x), F.relu(x).square())
