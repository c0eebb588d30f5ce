"""Formats of files and folders other than those of torch and safetensors."""
