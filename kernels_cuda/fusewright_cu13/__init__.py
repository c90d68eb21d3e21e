"""The CUDA kernels of fusewright, built for CUDA 13: a shared library beside this file."""

from fusewright.backends.cuda import cuda_backend

BACKEND = cuda_backend(package="fusewright_cu13", distribution="fusewright-cu13")
