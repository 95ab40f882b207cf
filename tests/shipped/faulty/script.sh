#!/bin/sh
# What shellcheck has to find.
echo "$nowhere"
