// Classifies images with a .tflite file of this package on Android. Class names and how the pixels
// are scaled are read from the file's own metadata.
//
// app/build.gradle.kts:
//
//     android {
//         defaultConfig { minSdk = 24 }
//         androidResources { noCompress += "tflite" } // so that the file can be memory-mapped
//     }
//     dependencies {
//         implementation("com.google.mediapipe:tasks-vision:0.10.21")
//     }
//
// The model goes to app/src/main/assets/model_int8.tflite.

package com.example.efficientnet

import android.content.Context
import android.graphics.Bitmap
import android.graphics.RectF
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.ImageProcessingOptions
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import java.io.Closeable

/**
 * @param cropFraction share of the shorter side that was looked at in evaluation: 0.875 for photos;
 *     the description of the model's input in its metadata says it.
 */
class EfficientNetClassifier(
    context: Context,
    modelAsset: String = "model_int8.tflite",
    maxResults: Int = 5,
    private val cropFraction: Float = 0.875f,
) : Closeable {
    private val classifier =
        ImageClassifier.createFromOptions(
            context,
            ImageClassifier.ImageClassifierOptions.builder()
                .setBaseOptions(BaseOptions.builder().setModelAssetPath(modelAsset).build())
                .setRunningMode(RunningMode.IMAGE)
                .setMaxResults(maxResults)
                .build(),
        )

    /** Returns the best classes with their scores, best first. */
    fun classify(image: Bitmap, rotationDegrees: Int = 0): List<Pair<String, Float>> {
        // MediaPipe would squeeze the whole image into a square; evaluation took the centre's.
        val side = cropFraction * minOf(image.width, image.height)
        val halfWidth = side / (2 * image.width)
        val halfHeight = side / (2 * image.height)
        val options =
            ImageProcessingOptions.builder()
                .setRegionOfInterest(
                    RectF(
                        0.5f - halfWidth,
                        0.5f - halfHeight,
                        0.5f + halfWidth,
                        0.5f + halfHeight,
                    )
                )
                .setRotationDegrees(rotationDegrees)
                .build()
        // The only pixel format that it takes; cameras and decoders may give others.
        val pixels =
            if (image.config == Bitmap.Config.ARGB_8888) image
            else image.copy(Bitmap.Config.ARGB_8888, false)
        val result = classifier.classify(BitmapImageBuilder(pixels).build(), options)
        return result.classificationResult().classifications().first().categories().map {
            it.categoryName() to it.score()
        }
    }

    override fun close() = classifier.close()
}
