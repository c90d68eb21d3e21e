// What the Python side calls through ctypes; nothing else is visible.
#pragma once

#if defined(_WIN32)
#define FW_EXPORT extern "C" __declspec(dllexport)
#else
#define FW_EXPORT extern "C" __attribute__((visibility("default")))
#endif
